"""What a quantizer's rules say of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import LayerTarget, matches, supported_layers
from autocompress.errors import ConfigError

DEFAULT_BITS = 8


@dataclass(frozen=True)
class Precision:
    """How one tensor of a layer is quantized. Its `quant_dtype` only numbers the levels, and changes no value.

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
    """What is quantized in each layer, in the model's order; later rules override earlier ones, per quant type.

    Args:
        model: the model, not changed.
        request: its rules and scopes.
        types: the layers the quantizer can be pointed at.
        default_bits: where a rule names none.

    Raises:
        ConfigError: as `layers.select_layers`.
    """
    request.scopes.check(model)
    chosen: dict[str, dict[str, Precision]] = {name: {} for name in supported_layers(model, types)}
    for target, names in matches(model, request.targets, types):
        for name in names:
            _apply(target, chosen[name], default_bits)
    selected = {name: wanted for name, wanted in chosen.items() if wanted and request.scopes.allow(name)}
    if not selected:
        raise ConfigError("at least one layer must be selected for quantization; the rules and scopes select none")
    return selected


def _apply(target: LayerTarget, wanted: dict[str, Precision], default_bits: int) -> None:
    for quant_type in target.quant_types or tuple(wanted):
        if target.exclude:
            wanted.pop(quant_type, None)
        else:
            wanted[quant_type] = Precision(
                bits=int(_of(target.quant, "quant_bits", quant_type, default_bits)),
                scheme=_of(target.quant, "quant_scheme", quant_type, None),
                start_step=int(_of(target.quant, "quant_start_step", quant_type, 0)),
            )


def _of(variables: Mapping[str, Any], name: str, quant_type: str, default: Any) -> Any:
    """A variable of a quant type: given for it, or for all."""
    value = variables.get(name, default)
    return value.get(quant_type, default) if isinstance(value, Mapping) else value
