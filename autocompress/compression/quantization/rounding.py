"""Rounding to few bits with straight-through gradients.

Sources: straight-through estimator Bengio et al. 2013 arXiv:1308.3432; dorefa Zhou et al. 2016 arXiv:1606.06160; bnn
Courbariaux et al. 2016 arXiv:1602.02830, its scale Rastegari et al. 2016 (XNOR-Net) arXiv:1603.05279.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch

WeightRounding = Callable[[torch.Tensor, int], torch.Tensor]
"""(weight, bits) -> a tensor of the same shape with at most 2 ** bits distinct values."""


class _StraightThrough(torch.autograd.Function):
    """Replaces a tensor's values and passes the gradient. Exact, unlike x + (y - x).detach()."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, replaced: torch.Tensor) -> torch.Tensor:  # noqa: ARG004
        return replaced.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ARG004
        return gradients[0], None


def straight_through(values: torch.Tensor, replaced: torch.Tensor) -> torch.Tensor:
    """`replaced`, with the gradient of `values`."""
    if not (torch.is_grad_enabled() and values.requires_grad):
        return replaced
    return cast(torch.Tensor, _StraightThrough.apply(values, replaced))  # type: ignore[no-untyped-call]


def symmetric(weight: torch.Tensor, bits: int, channels: int | None = None) -> torch.Tensor:
    """Nearest of 2 ** bits - 1 levels spaced evenly over [-max, max] of the magnitudes; zero stays zero.

    Args:
        weight: of any shape.
        bits: of each value, from 2.
        channels: dimension with levels for each index; None: the same levels for all.
    """
    levels = 2 ** (bits - 1) - 1
    largest = _over(torch.amax, weight.detach().abs(), channels)
    scale = (largest / levels).clamp_min(torch.finfo(weight.dtype).tiny)
    return straight_through(weight, (weight.detach() / scale).round().clamp(-levels, levels) * scale)


def affine(weight: torch.Tensor, bits: int, channels: int | None = None) -> torch.Tensor:
    """Nearest of 2 ** bits levels spaced evenly over [min, max], zero among them; see `symmetric`."""
    low = _over(torch.amin, weight.detach(), channels).clamp_max(0)
    high = _over(torch.amax, weight.detach(), channels).clamp_min(0)
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp_min(torch.finfo(weight.dtype).tiny)
    zero = (-low / scale).round()
    codes = ((weight.detach() / scale).round() + zero).clamp(0, levels)
    return straight_through(weight, (codes - zero) * scale)


def _over(extreme: Callable[..., torch.Tensor], values: torch.Tensor, channels: int | None) -> torch.Tensor:
    """The extreme of all values, or for each channel, in a shape that broadcasts."""
    if channels is None:
        return extreme(values)
    return extreme(values, dim=[dim for dim in range(values.dim()) if dim != channels], keepdim=True)


def dorefa(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Levels spaced evenly over tanh of the weights, scaled back to the weights' own range; one bit as in `binary`.

    The paper leaves the levels in [-1, 1]; pre-trained layers need their range.
    """
    if bits == 1:
        return binary(weight, bits)
    bounded = torch.tanh(weight)
    unit = bounded / (2 * bounded.detach().abs().max().clamp_min(torch.finfo(weight.dtype).tiny)) + 0.5
    levels = 2**bits - 1
    codes = straight_through(unit, (unit.detach() * levels).round() / levels)
    return (2 * codes - 1) * weight.detach().abs().max()


def binary(weight: torch.Tensor, bits: int) -> torch.Tensor:  # noqa: ARG001 - it is one bit
    """The sign of each weight times the mean magnitude of the layer; zero counts as positive."""
    scale = weight.detach().abs().mean()
    return straight_through(weight, torch.where(weight.detach() >= 0, scale, -scale))


def round_between(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, bits: int) -> torch.Tensor:
    """Nearest of 2 ** bits levels spaced evenly over [low, high]; no gradient passes outside of it."""
    levels = 2**bits - 1
    scale = ((high - low) / levels).clamp_min(torch.finfo(values.dtype).tiny)
    clamped = torch.clamp(values, low, high)
    return straight_through(clamped, ((clamped.detach() - low) / scale).round() * scale + low)
