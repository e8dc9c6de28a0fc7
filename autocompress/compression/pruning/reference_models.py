"""Reference models and varied inputs for checking a cut."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.compression.model_state import copy_model, device_of, flatten_tensors, map_tensors, temporary_hooks
from autocompress.compression.pruning.groups import Removal
from autocompress.compression.pruning.recurrent import output_channels, zeroed_units

_SEED = 20_011
_LONGER = 4
"""Size that replaces 1; masks may remove half of it."""


@dataclass(frozen=True)
class Variation:
    """How inputs differ from the example inputs.

    Attributes:
        samples: number of samples; None: unchanged.
        longer: dimensions of size 1 that get a larger size.
        masks: whether booleans and tensors of zeros and ones get other values.
        numbers: whether other integers get other values.
        values: whether noise is added to floating point values; if not, only sizes change.
    """

    samples: int | None = None
    longer: tuple[int, ...] = ()
    masks: bool = True
    numbers: bool = True
    values: bool = True


ONE_SAMPLE = Variation(samples=1)
"""Sufficient for models that keep samples and positions separate."""


def variations(inputs: tuple[Any, ...]) -> Iterator[Variation]:
    """Variations from the most informative one to the unchanged example inputs, which every model accepts.

    A single sample, token or pixel may be processed differently from several, as by a permutation or attention.
    """
    given = flatten_tensors(inputs)
    ones = sorted({place for tensor in given for place, size in enumerate(tensor.shape) if place and size == 1})
    several = [tuple(ones)] if len(ones) > 1 else []
    yield from (Variation(2, longer) for longer in (*several, *((one,) for one in ones), ()))
    yield Variation()
    yield Variation(masks=False)
    yield Variation(masks=False, numbers=False)
    yield Variation(masks=False, numbers=False, values=False)


def varied_inputs(inputs: tuple[Any, ...], variation: Variation, numbers: int) -> tuple[Any, ...]:
    """Inputs without symmetry, as far as the variation allows; integers are below `numbers`."""
    generator = torch.Generator().manual_seed(_SEED)
    sizes = {tensor.shape[0] for tensor in flatten_tensors(inputs) if tensor.dim() > 0}
    alike = len(sizes) == 1 and sizes != {0}

    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = _resized(tensor, variation, alike=alike)
        if not variation.values or not tensor.numel() or tensor.is_complex():
            return tensor
        if not tensor.is_floating_point():
            is_mask = tensor.dtype == torch.bool or (tensor.numel() > 1 and int(tensor.max()) <= 1 < numbers - 1)
            varies = tensor.dim() > 0 and variation.numbers and (variation.masks or not is_mask)
            return _random_integers(tensor, 2 if is_mask else numbers, generator) if varies else tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        size = tensor.float().std() if tensor.numel() > 1 else torch.zeros(())
        return tensor + noise * (size.to(tensor) if size > 0 else 1)

    return map_tensors(inputs, change)  # type: ignore[no-any-return]


def _resized(tensor: torch.Tensor, variation: Variation, *, alike: bool) -> torch.Tensor:
    if alike and tensor.dim() > 0 and variation.samples:
        copies = -(-variation.samples // tensor.shape[0])
        tensor = (torch.cat([tensor] * copies) if copies > 1 else tensor)[: variation.samples]
    for place in variation.longer:
        if place < tensor.dim() and tensor.shape[place] == 1:
            tensor = torch.cat([tensor] * _LONGER, place)
    return tensor


def _random_integers(tensor: torch.Tensor, numbers: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(numbers, tensor.shape, generator=generator)
    for place in range(min(2, drawn.shape[-1])):  # a constant mask would hide everything
        drawn[..., place] = place
    return (drawn % 2 == 0 if tensor.dtype == torch.bool else drawn).to(tensor.device, tensor.dtype)


def vocabulary_size(model: nn.Module) -> int:
    """The number of integers, from 0, that are valid inputs: the rows of the smallest embedding."""
    sizes = [len(table.weight) for table in model.modules() if isinstance(table, nn.Embedding | nn.EmbeddingBag)]
    return min(sizes, default=2)


def cast_inputs(inputs: tuple[Any, ...], model: nn.Module, dtype: torch.dtype | None) -> tuple[Any, ...]:
    """The inputs on the model's device, floating point tensors with that type."""
    device = device_of(model)

    def cast(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    return map_tensors(inputs, cast)  # type: ignore[no-any-return]


_PROBED = 8


def reference_copy(model: nn.Module, dtype: torch.dtype | None = None, *, varied: bool = False) -> nn.Module:
    """A copy that shares unchanged parameters of PyTorch's layers; running it does not change the model.

    Args:
        model: not changed.
        dtype: floating point type of the copy; None: unchanged.
        varied: fill constant parameters and buffers with different values, and single zeros with another number;
            otherwise their channels are indistinguishable, or a closed gate hides everything behind it.
    """
    generator, memo = torch.Generator().manual_seed(_SEED), dict[int, Any]()
    for module in model.modules():
        shares = type(module).__module__.startswith("torch.nn.")
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is None or id(tensor) in memo:
                continue
            learned = isinstance(tensor, nn.Parameter)
            vary = varied and (learned or tensor.numel() > 1)
            value = _varied(tensor.detach(), dtype, generator if vary else None)
            if value is None and learned and shares:
                memo[id(tensor)] = tensor
            else:
                value = tensor.detach().clone() if value is None else value
                memo[id(tensor)] = nn.Parameter(value, tensor.requires_grad) if learned else value
    return copy_model(model, memo)


def _varied(tensor: torch.Tensor, dtype: torch.dtype | None, generator: torch.Generator | None) -> torch.Tensor | None:
    """The tensor with another type or other values; None if unchanged."""
    if not tensor.is_floating_point():
        return None
    wanted = dtype or tensor.dtype
    if generator is not None and _is_constant(tensor):
        values = torch.rand(tensor.shape, generator=generator) + 0.5
        if tensor.dim() > 1 and tensor.numel() > 1:  # weights of a layer: both signs, scaled by fan-in
            values = (values - 1) * 2 / (tensor.numel() / tensor.shape[0]) ** 0.5
        return values.to(tensor.device, wanted)
    return None if wanted == tensor.dtype else tensor.to(wanted)


def _is_constant(tensor: torch.Tensor) -> bool:
    flat = tensor.reshape(-1)
    if flat.numel() == 1:  # a closed gate, which hides everything behind it
        return not bool(flat[0])
    return flat.numel() > 1 and all(bool((part == flat[0]).all()) for part in (flat[:_PROBED], flat))


@contextmanager
def zero_channels(model: nn.Module, removed: Iterable[Removal]) -> Iterator[None]:
    """Zero the removed channels at the inputs of the layers that read them, and in parameters outside layers.

    Hidden units are zeroed where they are made, since their own layer reads them.

    That is equivalent to removing them, whatever non-linearity comes in between.
    """
    handles, replaced = list[RemovableHandle](), list[tuple[nn.Module, str, nn.Parameter]]()
    for removal in removed:
        parent, last = removal.locate(model)
        place = getattr(parent, last)
        if isinstance(place, RECURRENT_TYPES) and not removal.on_inputs:
            for key, zeroed in list(zeroed_units(place, removal.channels)):
                replaced.append((place, key, getattr(place, key)))
                setattr(place, key, zeroed)
        elif isinstance(place, nn.Parameter):
            replaced.append((parent, last, place))
            index = torch.tensor(removal.channels, device=place.device)
            setattr(parent, last, nn.Parameter(place.detach().index_fill(removal.dimension, index, 0)))
        elif removal.on_inputs:
            handles.append(place.register_forward_pre_hook(_zeroing_hook(place, removal.channels), with_kwargs=True))
    try:
        with temporary_hooks(handles):
            yield
    finally:
        for parent, last, parameter in reversed(replaced):
            setattr(parent, last, parameter)


def channel_dimension(layer: nn.Module) -> int:
    """Index of the channel dimension in a layer's inputs and outputs."""
    return -1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)


def _zeroing_hook(layer: nn.Module, channels: tuple[int, ...]) -> Any:
    dimension = channel_dimension(layer)

    def zeroed(tensor: Any) -> Any:
        if isinstance(tensor, PackedSequence):
            return tensor._replace(data=zeroed(tensor.data))
        return tensor.index_fill(dimension, torch.tensor(channels, device=tensor.device), 0)

    def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (zeroed(arguments[0]), *arguments[1:]), keywords
        name = next(name for name, value in keywords.items() if isinstance(value, torch.Tensor | PackedSequence))
        return (), {**keywords, name: zeroed(keywords[name])}

    return hook


def remaining_channels(
    output: torch.Tensor, layer: nn.Module, gone: Mapping[str, tuple[int, ...]], name: str
) -> torch.Tensor:
    """The part of a layer's output that the smaller model has as well."""
    lost = set(gone.get(name, ()))
    if isinstance(layer, RECURRENT_TYPES):
        lost = set(output_channels(layer, lost))
    if not lost:
        return output
    dimension = channel_dimension(layer)
    left = [channel for channel in range(output.shape[dimension]) if channel not in lost]
    return output.index_select(dimension, torch.tensor(left, device=output.device))


@contextmanager
def fixed_seeds(device: torch.device) -> Iterator[None]:
    """Fix the seeds of all random number generators inside the block and restore their states after it."""
    cuda = device.type == "cuda"
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if cuda else []):
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)  # not `torch.manual_seed`, which seeds devices that are not restored
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
