"""Rounding to few bits with straight-through gradients.

Sources: straight-through estimator Bengio et al. 2013 arXiv:1308.3432; dorefa Zhou et al. 2016 arXiv:1606.06160; bnn
Courbariaux et al. 2016 arXiv:1602.02830, its scale Rastegari et al. 2016 (XNOR-Net) arXiv:1603.05279.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from autocompress.errors import StoreError
from autocompress.plain_json import boolean, integer, mapping, record, word

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


_MOMENTUM = 0.1
_PLACES = {"input": "input_quantizer", "output": "output_quantizer"}
"""Quant type -> name of the submodule that quantizes it."""


class ActivationQuantizer(nn.Module):
    """Rounds values to 2 ** bits levels in a range.

    The range follows the values by a moving average in training mode and is fixed in eval mode. DoReFa's fixed range of
    [0, 1] suits networks trained with it from the start; a measured range suits pre-trained ones.

    Args:
        bits: of each value; with one bit the two levels are the ends of the range.
        start_step: forward passes in training mode before rounding starts.
        symmetric: whether the range is as wide below zero as above it, with zero among the levels, if values below zero
            were observed; else it begins at zero.

    Attributes:
        observe_only: whether it only observes, and passes values unchanged.
    """

    low: torch.Tensor
    high: torch.Tensor
    steps: torch.Tensor

    def __init__(self, bits: int, start_step: int = 0, symmetric: bool = False) -> None:
        super().__init__()
        self.bits, self.start_step, self.symmetric = bits, start_step, symmetric
        self.observe_only = False
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """The rounded values, of the same shape."""
        if self.observe_only:
            self.observe(values)
            return values
        if self.training:
            self.observe(values)
            if self.steps <= self.start_step:
                return values
        return round_between(values, *self._range(), self.bits)

    @torch.no_grad()
    def observe(self, values: torch.Tensor) -> None:
        """Move the range towards that of the values."""
        weight = 1.0 if self.steps == 0 else _MOMENTUM
        self.low.lerp_(values.detach().amin().to(self.low), weight)
        self.high.lerp_(values.detach().amax().to(self.high), weight)
        self.steps.add_(1)

    def _range(self) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.symmetric:
            return self.low, self.high
        high, above = torch.maximum(self.high, -self.low), max(1, 2 ** (self.bits - 1) - 1)
        below = -high * (2 ** (self.bits - 1) / above)  # one level more than above, like signed integers
        return torch.where(self.low < 0, below, torch.zeros_like(below)), high

    def to_dict(self) -> dict[str, int | bool]:
        """The arguments to recreate it."""
        return {"bits": self.bits, "start_step": self.start_step, "symmetric": self.symmetric}


def attach(
    layer: nn.Module, quant_type: str, bits: int, start_step: int = 0, *, symmetric: bool = False
) -> ActivationQuantizer:
    """Quantize a layer's first argument ("input") or its result ("output")."""
    quantizer = ActivationQuantizer(bits, start_step, symmetric)
    parameter = next(layer.parameters(), None)
    layer.add_module(_PLACES[quant_type], quantizer.to(parameter.device) if parameter is not None else quantizer)
    _hook(layer, quant_type)
    return quantizer


def detach(layer: nn.Module) -> None:
    """Remove the quantizers of a layer, without its submodules."""
    for quant_type in activation_quantizers(layer):
        delattr(layer, _PLACES[quant_type])
    for hooks in (layer._forward_pre_hooks, layer._forward_hooks):
        for key in [key for key, known in hooks.items() if known in (_quantize_input, _quantize_output)]:
            del hooks[key]


def hook(layer: nn.Module) -> None:
    """Register the hooks that call the quantizers of a layer."""
    for quant_type in activation_quantizers(layer):
        _hook(layer, quant_type)


def _hook(layer: nn.Module, quant_type: str) -> None:
    if quant_type == "input":
        layer.register_forward_pre_hook(_quantize_input)
    else:
        layer.register_forward_hook(_quantize_output)


def activation_quantizers(layer: nn.Module) -> dict[str, ActivationQuantizer]:
    """Quant type -> quantizer, of one layer."""
    found = {quant_type: getattr(layer, name, None) for quant_type, name in _PLACES.items()}
    return {name: quantizer for name, quantizer in found.items() if isinstance(quantizer, ActivationQuantizer)}


QUANTIZERS = mapping(
    word(*_PLACES), record(bits=integer(1, 32), start_step=integer(0, 1 << 53), symmetric=boolean), most=len(_PLACES)
)
"""Grammar of one layer's quantizers: quant type -> `to_dict()`."""


def attach_described(layer: nn.Module, described: Any) -> None:
    """Attach the quantizers that `to_dict` described, by quant type; their ranges are loaded with the weights.

    Raises:
        StoreError: the description is damaged, or the layer has another attribute of that name.
    """
    for quant_type, settings in QUANTIZERS(described, "quantizers").items():
        if hasattr(layer, _PLACES[quant_type]):
            raise StoreError(f"a {type(layer).__name__} must have no {_PLACES[quant_type]} of its own")
        attach(layer, quant_type, settings["bits"], settings["start_step"], symmetric=settings["symmetric"])


def _quantize_input(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer: Any = layer.input_quantizer
    return (quantizer(arguments[0]), *arguments[1:])


def _quantize_output(layer: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
    quantizer: Any = layer.output_quantizer
    return quantizer(output)
