"""Looking at a model without leaving traces: modes, gradients and devices."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode inside the block, each in its own mode again after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def requiring_gradients(model: nn.Module) -> Iterator[None]:
    """Every float parameter requires gradients inside the block; restored by name, as parameters may be replaced."""
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags.get(name, True))


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def moved(value: Any, device: torch.device) -> Any:
    """The value with every tensor in its sequences and mappings on that device."""
    return mapped(value, lambda tensor: tensor.to(device))


def mapped(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The value with every tensor in its sequences and mappings changed so."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(item, change) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in a model's output: in sequences, mappings and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [tensor for field in dataclasses.fields(value) for tensor in tensors(getattr(value, field.name))]
    return []


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """All tensors of one forward pass in eval mode, without gradients."""
    with evaluating(model), torch.no_grad():
        return tensors(model(*moved(inputs, device_of(model))))


def output_shapes(model: nn.Module, example_inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    """Shapes of all output tensors of one forward pass in eval mode."""
    return [tuple(tensor.shape) for tensor in outputs(model, example_inputs)]
