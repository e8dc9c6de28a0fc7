"""Two models to compare: a copy of the uncompressed one whose removed channels are silent, and a smaller copy."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autocompress.compress.copying import copied
from autocompress.compress.pruning.removal import Removal

_SEED = 20_011
_PROBED = 8


def twin(model: nn.Module, dtype: torch.dtype | None = None, *, varied: bool = False) -> nn.Module:
    """A copy that shares the parameters of PyTorch's layers, where nothing about them changes.

    Args:
        model: not changed, also when the copy is run in training mode.
        dtype: of the copy's floating point numbers; None: as they are.
        varied: fill parameters and buffers whose values are all the same, as fresh ones are, with different ones, and
            parameters of a single zero with another number: else it cannot be seen which channel they belong to, or
            nothing behind them.
    """
    generator, memo = torch.Generator().manual_seed(_SEED), dict[int, Any]()
    for module in model.modules():
        shares = type(module).__module__.startswith("torch.nn.")
        for parameter in module._parameters.values():
            if parameter is not None and id(parameter) not in memo:
                changed = _changed(parameter.detach(), dtype, generator if varied else None)
                if changed is not None or not shares:
                    value = parameter.detach().clone() if changed is None else changed
                    memo[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
                else:
                    memo[id(parameter)] = parameter
        for buffer in module._buffers.values():
            if buffer is not None and id(buffer) not in memo:
                changed = _changed(buffer.detach(), dtype, generator if varied and buffer.numel() > 1 else None)
                memo[id(buffer)] = buffer.detach().clone() if changed is None else changed
    return copied(model, memo)


def _changed(tensor: torch.Tensor, dtype: torch.dtype | None, generator: torch.Generator | None) -> torch.Tensor | None:
    """The tensor in another type or with other values; None: it stays as it is."""
    if not tensor.is_floating_point():
        return None
    wanted = dtype or tensor.dtype
    if generator is not None and _is_constant(tensor):
        values = torch.rand(tensor.shape, generator=generator) + 0.5
        if tensor.dim() > 1 and tensor.numel() > 1:  # weights of a layer: of either sign, and small where many
            values = (values - 1) * 2 / (tensor.numel() / tensor.shape[0]) ** 0.5
        return values.to(tensor.device, wanted)
    return None if wanted == tensor.dtype else tensor.to(wanted)


def _is_constant(tensor: torch.Tensor) -> bool:
    flat = tensor.reshape(-1)
    if flat.numel() == 1:  # a gate that is still shut, behind which nothing shows
        return not bool(flat[0])
    return flat.numel() > 1 and all(bool((part == flat[0]).all()) for part in (flat[:_PROBED], flat))


@contextmanager
def silenced(model: nn.Module, removed: Iterable[Removal]) -> Iterator[None]:
    """Inside the block no layer of the model hears the removed channels: they are zero where it takes them in.

    That is what removing them claims, whatever non-linearity they come through. Parameters of no layer, which scale or
    shift channels, are zero there too.
    """
    handles, replaced = [], []
    for removal in removed:
        parent, last = removal.place_in(model)
        place = getattr(parent, last)
        if isinstance(place, nn.Parameter):
            replaced.append((parent, last, place))
            index = torch.tensor(removal.channels, device=place.device)
            setattr(parent, last, nn.Parameter(place.detach().index_fill(removal.dimension, index, 0)))
        elif removal.on_inputs:
            handles.append(place.register_forward_pre_hook(_silencer(place, removal.channels), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parent, last, parameter in reversed(replaced):
            setattr(parent, last, parameter)


def channel_dimension(layer: nn.Module) -> int:
    """Where a layer's inputs and outputs have their channels."""
    return -1 - (len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0)


def _silencer(layer: nn.Module, channels: tuple[int, ...]) -> Any:
    dimension = channel_dimension(layer)

    def silent(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_fill(dimension, torch.tensor(channels, device=tensor.device), 0)

    def silence(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if arguments:
            return (silent(arguments[0]), *arguments[1:]), keywords
        name = next(name for name, value in keywords.items() if isinstance(value, torch.Tensor))
        return (), {**keywords, name: silent(keywords[name])}

    return silence


def kept(output: torch.Tensor, layer: nn.Module, gone: Mapping[str, tuple[int, ...]], name: str) -> torch.Tensor:
    """What of a layer's output the smaller model has too."""
    lost = set(gone.get(name, ()))
    if not lost:
        return output
    dimension = channel_dimension(layer)
    left = [channel for channel in range(output.shape[dimension]) if channel not in lost]
    return output.index_select(dimension, torch.tensor(left, device=output.device))


@contextmanager
def same_chance(device: torch.device) -> Iterator[None]:
    """The same random numbers each time, and those of everything else as if none had been drawn."""
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
