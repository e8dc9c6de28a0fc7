"""Simulated quantization: fake quantizers on weights and activations, chosen by rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import WEIGHT, CompressionRequest, WeightTransform, fold_parametrizations, transforms
from autocompress.compression.layers import match_rules, supported_layers, unknown_layers, weight_types
from autocompress.compression.model_state import forward_outputs, temporary_hooks
from autocompress.compression.pruning.sparsity import Mask, computed_weights, require_plain_weights, require_some_plain
from autocompress.compression.quantization import rounding
from autocompress.compression.quantization.quantizer import Quantizer
from autocompress.compression.quantization.rounding import ActivationQuantizer, WeightRounding, attach
from autocompress.compression.trainer_hooks import calibration_inputs, run_inputs
from autocompress.compression.weight_storage import sorted_unique
from autocompress.errors import ConfigError
from autocompress.layer_selector import LayerRule
from autocompress.registry import algorithm

DEFAULT_BITS = 8


@dataclass(frozen=True)
class Precision:
    """How one tensor of a layer is quantized. Its `quant_dtype` does not change values.

    Attributes:
        bits: of each value.
        scheme: per_tensor_affine, per_tensor_symmetric, per_channel_affine or per_channel_symmetric; None: the
            quantizer's own choice.
        start_step: steps of training before it is switched on.
    """

    bits: int = DEFAULT_BITS
    scheme: str | None = None
    start_step: int = 0


def quantized_layers(
    model: nn.Module, request: CompressionRequest, types: tuple[type[nn.Module], ...], default_bits: int = DEFAULT_BITS
) -> dict[str, dict[str, Precision]]:
    """The precision of each layer by quant type, in the model's order; later rules override earlier ones.

    Args:
        model: not changed.
        request: its rules and scopes.
        types: the layers that the quantizer supports.
        default_bits: for rules without bits.

    Raises:
        ConfigError: as `layers.select_layers`.
    """
    request.scopes.check(model)
    chosen: dict[str, dict[str, Precision]] = {name: {} for name in supported_layers(model, types)}
    for target, names in match_rules(model, request.targets, types):
        for name in names:
            _apply(target, chosen[name], default_bits)
    selected = {name: chosen[name] for name in request.scopes.allowed(model, chosen) if chosen[name]}
    if not selected:
        raise ConfigError("at least one layer must be selected for quantization; the rules and scopes select none")
    return selected


def _apply(target: LayerRule, wanted: dict[str, Precision], default_bits: int) -> None:
    for quant_type in target.quant_types or tuple(wanted):
        if target.exclude:
            wanted.pop(quant_type, None)
        else:
            wanted[quant_type] = Precision(
                bits=int(_setting(target.quant, "quant_bits", quant_type, default_bits)),
                scheme=_setting(target.quant, "quant_scheme", quant_type, None),
                start_step=int(_setting(target.quant, "quant_start_step", quant_type, 0)),
            )


def _setting(variables: Mapping[str, Any], name: str, quant_type: str, default: Any) -> Any:
    """A setting of a quant type: given for it, or for all."""
    value = variables.get(name, default)
    return value.get(quant_type, default) if isinstance(value, Mapping) else value


FLOAT_BITS = 32


class RoundedWeight(WeightTransform):
    """Parametrization that rounds a weight after `start_step` uses in training mode."""

    def __init__(self, round_weight: WeightRounding, bits: int, start_step: int = 0) -> None:
        super().__init__()
        self._round, self.bits, self.start_step = round_weight, bits, start_step
        self._steps = 0

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The rounded weight, of the same shape."""
        if self.training and torch.is_grad_enabled() and self._steps < self.start_step:
            self._steps += 1
            return weight
        return self._round(weight, self.bits)


@dataclass(frozen=True)
class FakeQuantization:
    """A model that is trained as if it had few bits.

    Attributes:
        model: the model, the object that was given.
        bits: layer -> bits of its weights.
        types: the layers whose weights could be quantized.
        channels: layer -> dimension of its weight with levels for each index; other layers have one set of levels.
        left_alone: layer -> why its weight is not rounded although a rule selects it.
    """

    model: nn.Module
    bits: dict[str, int]
    types: tuple[type[nn.Module], ...]
    channels: Mapping[str, int] = field(default_factory=dict)
    left_alone: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = True
    converts: bool = False
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the weights' bits that are saved.

        In a finished model a layer counts if its weight has no more distinct values than the bits allow; zero is not
        counted, as a mask may have added it.
        """
        bits = {**self.bits, **dict.fromkeys(self.layers_beyond_bits(model), FLOAT_BITS)}
        return bits_saved(model, bits, self.types, whole_model=whole_model)

    def finish(self, model: nn.Module) -> nn.Module:
        """Write the rounded values into the weights; the quantizers of activations stay."""
        return fold_parametrizations(model)

    def layers_beyond_bits(self, model: nn.Module) -> list[str]:
        """Names of the layers of a finished model whose weights have more values than their bits allow."""
        return [name for name in self.bits if not self._fits(model, name)]

    def _fits(self, model: nn.Module, name: str) -> bool:
        layer = model.get_submodule(name)
        if self.bits[name] == FLOAT_BITS or any(isinstance(step, RoundedWeight) for step in transforms(layer)):
            return True
        weight = cast(torch.Tensor, layer.weight).detach()
        channels = self.channels.get(name)
        parts = [weight] if channels is None else weight.unbind(channels)
        return all(distinct_values(part) <= 2 ** self.bits[name] for part in parts)


def distinct_values(weight: torch.Tensor) -> int:
    """Number of distinct values other than zero."""
    # numpy sorts integers much faster.
    patterns = weight.detach().float().cpu().contiguous().view(torch.int32).numpy()
    values = sorted_unique(patterns.ravel()).view(np.float32)
    return int(np.count_nonzero(values))


def bits_saved(
    model: nn.Module, bits: dict[str, int], types: tuple[type[nn.Module], ...], *, whole_model: bool = False
) -> float:
    """Share in [0, 1) of the bits of the quantized layers' weights, or of all layers' weights, that are saved."""
    sizes = {name: cast(torch.Tensor, layer.weight).numel() for name, layer in supported_layers(model, types).items()}
    names = list(sizes) if whole_model else list(bits)
    total = sum(sizes[name] for name in names) * FLOAT_BITS
    saved = sum(sizes[name] * (FLOAT_BITS - bits.get(name, FLOAT_BITS)) for name in names)
    return saved / total if total else 0.0


class FakeQuantizer:
    """Simulates few bits."""

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check bits, quant types and schemes."""
        wanted = self._wanted(model, request)
        require_plain_weights(model, {name: kinds.get("weight") for name, kinds in wanted.items()})
        require_some_plain([name for name, kinds in wanted.items() if kinds], self._left_alone(model, wanted))

    def compress(self, model: nn.Module, request: CompressionRequest) -> FakeQuantization:
        """Insert quantizers of weights and activations; weights that a mask keeps at zero stay zero.

        Raises:
            ConfigError: the rules select nothing, or something the algorithm does not support.
            CompressionError: a shared weight cannot be quantized.
            ModuleError: activations need calibration, and the user's module has neither data nor a trainer.
        """
        self.check(model, request)
        compression = self.attach(model, request)
        if _quantizers(model):
            calibrate(model, request)
        return compression

    def attach(self, model: nn.Module, request: CompressionRequest) -> FakeQuantization:
        """Insert quantizers into a checked model; the ranges of activations must be calibrated afterwards."""
        wanted, types = self._wanted(model, request), weight_types(request.algorithm)
        left_alone = self._left_alone(model, wanted)
        for name in left_alone:
            del wanted[name]["weight"]
        channels = {}
        for name, kinds in wanted.items():
            layer = model.get_submodule(name)
            if "weight" in kinds:
                _quantize_weight(layer, quantizer_of(request), kinds["weight"])
                if (own := _channels(kinds["weight"], layer)) is not None:
                    channels[name] = own
            for quant_type, precision in kinds.items():
                if quant_type != "weight":
                    symmetric = precision.scheme == "per_tensor_symmetric"
                    attach(layer, quant_type, precision.bits, precision.start_step, symmetric=symmetric)
        bits = {name: kinds["weight"].bits if "weight" in kinds else FLOAT_BITS for name, kinds in wanted.items()}
        unknown = unknown_layers(model, request.targets, request.algorithm)
        return FakeQuantization(model, bits, types, channels, {**unknown, **left_alone})

    def _left_alone(self, model: nn.Module, wanted: Mapping[str, Mapping[str, Precision]]) -> dict[str, str]:
        return computed_weights(model, [name for name, kinds in wanted.items() if "weight" in kinds])

    def _wanted(self, model: nn.Module, request: CompressionRequest) -> dict[str, dict[str, Precision]]:
        family = quantizer_of(request)
        wanted = quantized_layers(model, request, weight_types(request.algorithm), family.bits[1])
        for kinds in wanted.values():
            for quant_type, precision in kinds.items():
                require_precision(family, quant_type, precision)
        if not family.skips_first_and_last:
            return wanted
        ends = _first_and_last(model, request) - {
            name for rule in request.targets if not rule.exclude for name in rule.op_names
        }
        left = {name: kinds for name, kinds in wanted.items() if name not in ends}
        if not left:
            raise ConfigError(
                f"{request.algorithm} leaves the first and the last layer as they are unless op_names names them; "
                f"nothing else is selected (selected: {', '.join(wanted)})"
            )
        return left


def quantizer_of(request: CompressionRequest) -> Quantizer:
    """The quantizer that a request names."""
    known = algorithm(request.algorithm)
    assert isinstance(known, Quantizer)
    return known


def require_precision(family: Quantizer, quant_type: str, precision: Precision) -> None:
    """Check what a rule demands of a quantizer; ConfigError if it cannot do that."""
    if quant_type not in family.quant_types:
        allowed = ", ".join(family.quant_types)
        raise ConfigError(f"{family.name} quantizes {allowed} only; got quant type {quant_type!r}")
    low, high = family.bits
    if not low <= precision.bits <= high:
        allowed = f"{low}" if low == high else f"{low} to {high}"
        raise ConfigError(f"quant_bits of {family.name} must be {allowed}; got {precision.bits} for {quant_type}")
    by_channel = quant_type == "weight" and family.per_channel
    if not by_channel and precision.scheme is not None and precision.scheme.startswith("per_channel"):
        raise ConfigError(
            f"quant_scheme of {family.name}, which is simulated, must be per_tensor_... for {quant_type}; "
            f"got {precision.scheme!r}"
        )


def _quantize_weight(layer: nn.Module, family: Quantizer, precision: Precision) -> None:
    masks = [step for step in transforms(layer) if isinstance(step, Mask)]
    step = RoundedWeight(family.rounding(precision, layer), precision.bits, precision.start_step)
    parametrize.register_parametrization(layer, WEIGHT, step, unsafe=True)
    for mask in masks:  # again after rounding, as not every grid has a zero
        parametrize.register_parametrization(layer, WEIGHT, Mask(mask.pruned))


def nearest(precision: Precision, layer: nn.Module) -> WeightRounding:
    """Rounding to the nearest of evenly spaced values, by the requested scheme."""
    scheme = precision.scheme or "per_tensor_symmetric"
    chosen = rounding.affine if scheme.endswith("affine") else rounding.symmetric
    channels = _channels(precision, layer)
    return chosen if channels is None else partial(chosen, channels=channels)


def _channels(precision: Precision, layer: nn.Module) -> int | None:
    """The dimension of a weight with a scale for each index; None: one scale for all."""
    if precision.scheme is None or not precision.scheme.startswith("per_channel"):
        return None
    return 1 if getattr(layer, "transposed", False) else 0  # filters of a transposed convolution


def calibrate(model: nn.Module, request: CompressionRequest) -> None:
    """Measure the ranges of all quantized activations again, on the module's data or the example inputs."""
    inputs = calibration_inputs(request, model)
    for quantizer in _quantizers(model):
        quantizer.steps.zero_()
    with observing(model):
        run_inputs(model, inputs)


def _quantizers(model: nn.Module) -> list[ActivationQuantizer]:
    return [module for module in model.modules() if isinstance(module, ActivationQuantizer)]


@contextmanager
def observing(model: nn.Module) -> Iterator[None]:
    """Let quantizers observe values without changing them inside the block, also in eval mode."""
    quantizers = _quantizers(model)
    for quantizer in quantizers:
        quantizer.observe_only = True
    try:
        yield
    finally:
        for quantizer in quantizers:
            quantizer.observe_only = False


def _first_and_last(model: nn.Module, request: CompressionRequest) -> set[str]:
    """Names of the layers that are called first and last."""
    called: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, layer in supported_layers(model, weight_types(request.algorithm)).items()
    ]
    with temporary_hooks(handles):
        forward_outputs(model, request.example_inputs)
    return {called[0], called[-1]} if called else set()
