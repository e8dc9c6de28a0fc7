"""Inputs that show more of what a model does than its example inputs: with noise, and with sizes that hide nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compress.state import device_of, mapped, moved, tensors

_SEED = 20_011
_LONGER = 4
"""What a size of 1 becomes: masks may leave out half of it."""


@dataclass(frozen=True)
class Variation:
    """How inputs differ from the example inputs.

    Attributes:
        samples: how many of them; None: as many as there are.
        longer: dimensions that have size 1 and get a larger one.
        masks: whether truth values and tensors of zeros and ones become others.
        numbers: whether other whole numbers do.
        values: whether noise is added to floating point numbers; if not, nothing of the above.
    """

    samples: int | None = None
    longer: tuple[int, ...] = ()
    masks: bool = True
    numbers: bool = True
    values: bool = True


ONE_SAMPLE = Variation(samples=1)
"""Enough where samples and positions stay apart."""


def variations(inputs: tuple[Any, ...]) -> Iterator[Variation]:
    """From what shows most of any model to what every model takes, which is the example inputs.

    What a single sample, token or pixel goes through may be another thing for several, such as a permutation or
    attention. Only sizes of the inputs are tried, not those of a single pixel that becomes of them.
    """
    given = tensors(inputs)
    ones = sorted({place for tensor in given for place, size in enumerate(tensor.shape) if place and size == 1})
    several = [tuple(ones)] if len(ones) > 1 else []
    yield from (Variation(2, longer) for longer in (*several, *((one,) for one in ones), ()))
    yield Variation()
    yield Variation(masks=False)
    yield Variation(masks=False, numbers=False)
    yield Variation(masks=False, numbers=False, values=False)


def varied_inputs(inputs: tuple[Any, ...], variation: Variation, numbers: int) -> tuple[Any, ...]:
    """Inputs about which nothing is symmetric, as far as the variation has it.

    Args:
        inputs: positional arguments of one forward pass.
        variation: what changes.
        numbers: whole numbers become others below this.
    """
    generator = torch.Generator().manual_seed(_SEED)
    sizes = {tensor.shape[0] for tensor in tensors(inputs) if tensor.dim() > 0}
    alike = len(sizes) == 1 and sizes != {0}

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = _resized(tensor, variation, alike=alike)
        if not variation.values or not tensor.numel() or tensor.is_complex():
            return tensor
        if not tensor.is_floating_point():
            is_mask = tensor.dtype == torch.bool or (tensor.numel() > 1 and int(tensor.max()) <= 1 < numbers - 1)
            varies = tensor.dim() > 0 and variation.numbers and (variation.masks or not is_mask)
            return _others(tensor, 2 if is_mask else numbers, generator) if varies else tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        size = tensor.float().std() if tensor.numel() > 1 else torch.zeros(())
        return tensor + noise * (size.to(tensor) if size > 0 else 1)

    return mapped(inputs, change)  # type: ignore[no-any-return]


def _resized(tensor: torch.Tensor, variation: Variation, *, alike: bool) -> torch.Tensor:
    if alike and tensor.dim() > 0 and variation.samples:
        copies = -(-variation.samples // tensor.shape[0])
        tensor = (torch.cat([tensor] * copies) if copies > 1 else tensor)[: variation.samples]
    for place in variation.longer:
        if place < tensor.dim() and tensor.shape[place] == 1:
            tensor = torch.cat([tensor] * _LONGER, place)
    return tensor


def _others(tensor: torch.Tensor, numbers: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(numbers, tensor.shape, generator=generator)
    for place in range(min(2, drawn.shape[-1])):  # a mask of one kind only would hide all
        drawn[..., place] = place
    return (drawn % 2 == 0 if tensor.dtype == torch.bool else drawn).to(tensor.device, tensor.dtype)


def whole_numbers(model: nn.Module) -> int:
    """How many whole numbers from 0 a model may be given: those that its smallest embedding has rows for."""
    sizes = [len(table.weight) for table in model.modules() if isinstance(table, nn.Embedding | nn.EmbeddingBag)]
    return min(sizes, default=2)


def typed(inputs: tuple[Any, ...], model: nn.Module, dtype: torch.dtype | None) -> tuple[Any, ...]:
    """The inputs on the model's device, their floating point numbers of that type."""
    moved_ones = moved(inputs, device_of(model))
    if dtype is None:
        return moved_ones  # type: ignore[no-any-return]
    return mapped(  # type: ignore[no-any-return]
        moved_ones, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor
    )
