"""Quantizers of layers' inputs and outputs, which are part of the finished model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autocompress.compression.quantization.rounding import round_between
from autocompress.errors import StoreError
from autocompress.grammar import boolean, integer, mapping, record, word

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
