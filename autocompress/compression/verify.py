"""Comparison of a model with what was written to a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress.compression.model_state import copy_model, flatten_tensors, forward_outputs, map_tensors
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.rounding import ActivationQuantizer
from autocompress.errors import CompressionError, first_line

Run = Callable[[tuple[Any, ...]], list[torch.Tensor]]
"""From the positional arguments of one forward pass to all output tensors."""

_TOLERANCE = 1e-4
_PERTURBATION, _PERTURBATIONS = 1e-6, 4
_CHAOS = 2.0
"""A value that is rounded the other way moves others: differences are then as random as those of perturbations."""


@dataclass(frozen=True)
class Agreement:
    """How closely an exported model matches the original.

    Attributes:
        batches: sizes of the batches both were run on.
        max_difference: largest absolute difference of the output that came closest to its tolerance.
        tolerance: tolerance of that output.
    """

    batches: tuple[int, ...]
    max_difference: float
    tolerance: float


def compare(model: nn.Module, cases: Sequence[tuple[Any, ...]], run: Run, checked: str) -> Agreement:
    """Compare a model with its exported form, `run`, on the same inputs.

    Each output tensor has its own tolerance: 1e-4 of its largest value, or four times the machine epsilon if that is
    more, and at least the change of the model's own output when its inputs change by a millionth, or, for models that
    round activations and take no floating point numbers, twice that when its parameters do. No two
    implementations of a model that rounds activations, cancels large values or is nearly singular agree more closely.

    Raises:
        CompressionError: it does not run, has other outputs, or an output differs by more than its tolerance.
    """
    shares = [(0.0, 0.0, 0.0)]
    for case in cases:
        wanted = forward_outputs(model, case)
        apart = differences(wanted, _run_exported(run, case, checked))
        for tolerance, difference in zip(_tolerances(model, case, wanted, apart), apart, strict=True):
            if not difference <= tolerance:
                raise CompressionError(
                    f"the exported model must compute what the model does, within {tolerance:.2g}; an output differs "
                    f"by {difference:.2g} ({checked})"
                )
            shares.append((difference / tolerance if tolerance else 0.0, tolerance, difference))
    _, tolerance, difference = max(shares)
    return Agreement(tuple(batch_size(case) for case in cases), difference, tolerance)


def differences(wanted: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> list[float]:
    """The largest absolute difference of each output; infinite if only one of the two is a number.

    Raises:
        CompressionError: they differ in number or shape.
    """
    if [tensor.shape for tensor in wanted] != [tensor.shape for tensor in found]:
        shapes = [[tuple(tensor.shape) for tensor in each] for each in (wanted, found)]
        raise CompressionError(f"the exported model must have the model's outputs {shapes[0]}; it has {shapes[1]}")
    return [_difference(a.cpu().double(), b.cpu().double()) for a, b in zip(wanted, found, strict=True)]


def rounds_activations(model: nn.Module) -> bool:
    """Whether the model rounds activations, so that a change in the last digit can move a value by a whole level."""
    return any(
        isinstance(module, Int8Model | ActivationQuantizer) or getattr(module, "ROUNDS_INPUTS", False)
        for module in model.modules()
    )


def batch_size(inputs: tuple[Any, ...]) -> int:
    """Dimension 0 of the first tensor that has one, else 0."""
    return next((tensor.shape[0] for tensor in flatten_tensors(inputs) if tensor.dim()), 0)


def _run_exported(run: Run, case: tuple[Any, ...], checked: str) -> list[torch.Tensor]:
    try:
        return run(case)
    except Exception as error:
        raise CompressionError(
            f"the exported model must run on a batch of {batch_size(case)} ({checked}); {first_line(error)}"
        ) from error


def _difference(wanted: torch.Tensor, found: torch.Tensor) -> float:
    same = (wanted == found) | (wanted.isnan() & found.isnan())
    if bool(same.all()):
        return 0.0
    apart = (wanted - found)[~same].abs()
    return float(apart.nan_to_num(nan=torch.inf, posinf=torch.inf).max())


def _tolerances(
    model: nn.Module, inputs: tuple[Any, ...], wanted: Sequence[torch.Tensor], found: Sequence[float]
) -> list[float]:
    allowed = [_relative_tolerance(tensor) for tensor in wanted]
    if all(difference <= tolerance for difference, tolerance in zip(found, allowed, strict=True)):
        return allowed
    again = differences(wanted, forward_outputs(model, inputs))
    if any(difference > tolerance for difference, tolerance in zip(again, allowed, strict=True)):
        return allowed  # random outputs agree with nothing
    generators = [torch.Generator().manual_seed(seed) for seed in range(_PERTURBATIONS)]
    if rounds_activations(model) and not any(tensor.is_floating_point() for tensor in flatten_tensors(inputs)):
        others = [forward_outputs(_perturbed_model(model, generator), inputs) for generator in generators]
        return [
            max(own, _CHAOS * max(moved))
            for own, *moved in zip(allowed, *(differences(wanted, other) for other in others), strict=True)
        ]
    nudged = [map_tensors(inputs, partial(_perturb, generator=generator)) for generator in generators]
    return [
        max(each)
        for each in zip(allowed, *(differences(wanted, forward_outputs(model, x)) for x in nudged), strict=True)
    ]


def _relative_tolerance(tensor: torch.Tensor) -> float:
    values = tensor.double().abs()
    largest = float(values[values.isfinite()].max()) if bool(values.isfinite().any()) else 0.0
    return largest * (max(_TOLERANCE, 4 * torch.finfo(tensor.dtype).eps) if tensor.is_floating_point() else _TOLERANCE)


@torch.no_grad()
def _perturbed_model(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy whose floating point parameters and buffers have changed by a millionth."""
    copied = copy_model(model)
    for tensor in (*copied.parameters(), *copied.buffers()):
        if tensor.is_floating_point():
            tensor.mul_(1 + _PERTURBATION * torch.randn(tensor.shape, generator=generator).to(tensor))
    return copied


def _perturb(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not value.is_floating_point() or not value.numel():
        return value
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value)
    return value + _PERTURBATION * value.abs().max() * noise
