"""Choosing layers from rules, as NNI's config lists do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autocompress.compress.registered import registered_types
from autocompress.compress.scopes import EVERYWHERE, Scopes
from autocompress.errors import ConfigError, unknown_name

FILTER_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Layers whose filters (output channels, output features) can be removed."""
WEIGHT_TYPES: tuple[type[nn.Module], ...] = (*FILTER_TYPES, nn.Embedding)
"""Layers whose single weights can be zeroed."""

DEFAULT = "default"


def weight_types(algorithm: str) -> tuple[type[nn.Module], ...]:
    """Layers whose single weights an algorithm may compress: PyTorch's, and the registered ones."""
    return (*WEIGHT_TYPES, *registered_types(algorithm))


@dataclass(frozen=True)
class LayerTarget:
    """One rule: which layers, and how much of them.

    Attributes:
        op_types: class names such as 'Conv2d', or 'default' for all types the algorithm supports; empty: any type.
        op_names: exact dotted names of layers; empty: any name.
        rate: compression rate of the layers in [0, 1); None where the algorithm has none, and for an exclude.
        exclude: whether the layers are taken out instead.
        quant_types: what a quantizer quantizes there: input, output, weight.
        quant: the quantizer's variables: quant_bits, quant_scheme, ...
    """

    op_types: tuple[str, ...] = ()
    op_names: tuple[str, ...] = ()
    rate: float | None = None
    exclude: bool = False
    quant_types: tuple[str, ...] = ()
    quant: Mapping[str, Any] = field(default_factory=dict)


def supported_layers(model: nn.Module, types: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """All layers of those types by dotted name, in the model's order.

    The output projection inside `nn.MultiheadAttention` is part of the attention, not a layer of its own.
    """
    inner = {
        child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.modules()
    }
    return {name: module for name, module in model.named_modules() if isinstance(module, types) and module not in inner}


def select_layers(
    model: nn.Module,
    targets: Sequence[LayerTarget],
    types: tuple[type[nn.Module], ...],
    scopes: Scopes = EVERYWHERE,
) -> dict[str, LayerTarget]:
    """The rule that holds for each selected layer, in the model's order; later rules override earlier ones.

    Raises:
        ConfigError: a rule names neither types nor names, or a type or name the model does not have, or selects no
            layer; a scope matches nothing; or nothing is left at the end.
    """
    scopes.check(model)
    layers, chosen = supported_layers(model, types), {}
    for target, names in matches(model, targets, types):
        chosen.update(dict.fromkeys(names, target))
    ruled = {name: chosen[name] for name in layers if name in chosen and not chosen[name].exclude}
    selected = {name: target for name, target in ruled.items() if scopes.allow(name)}
    if not selected:
        why = f"the scopes allow none of {', '.join(ruled)}" if ruled else "the rules select none"
        raise ConfigError(f"at least one layer must be selected for compression; {why}")
    return selected


def matches(
    model: nn.Module, targets: Sequence[LayerTarget], types: tuple[type[nn.Module], ...]
) -> list[tuple[LayerTarget, list[str]]]:
    """Each rule with the names of the layers it is about, in the model's order, scopes not regarded.

    Raises:
        ConfigError: a rule names neither types nor names, or a type or name the model does not have, or no layer.
    """
    layers = supported_layers(model, types)
    return [(target, _matches(model, layers, target, types)) for target in targets]


def layer_rates(
    model: nn.Module,
    targets: Sequence[LayerTarget],
    types: tuple[type[nn.Module], ...],
    scopes: Scopes = EVERYWHERE,
) -> dict[str, float]:
    """The compression rate of each selected layer, in the model's order.

    Raises:
        ConfigError: as `select_layers`; or a rule that selects layers has no rate, or one outside [0, 1).
    """
    return {name: _rate(target) for name, target in select_layers(model, targets, types, scopes).items()}


def _rate(target: LayerTarget) -> float:
    if target.rate is None:
        raise ConfigError(f"a rule of a pruner must have a sparsity or be an exclude; {_described(target)} has neither")
    if not 0 <= target.rate < 1:
        raise ConfigError(f"a compression rate must be in [0, 1); {_described(target)} has {target.rate!r}")
    return float(target.rate)


def _matches(
    model: nn.Module, layers: Mapping[str, nn.Module], target: LayerTarget, types: tuple[type[nn.Module], ...]
) -> list[str]:
    if not target.op_types and not target.op_names:
        raise ConfigError("a rule must have op_types or op_names; got neither")
    for type_name in target.op_types:
        _require_type(model, layers, type_name, types)
    for name in target.op_names:
        _require_name(model, layers, name, types)
    matches = [
        name
        for name, layer in layers.items()
        if (not target.op_names or name in target.op_names)
        and (not target.op_types or any(_is_type(layer, type_name) for type_name in target.op_types))
    ]
    if not matches:
        raise ConfigError(f"a rule must select at least one layer; {_described(target)} selects none")
    return matches


def _is_type(layer: nn.Module, type_name: str) -> bool:
    # By base classes too: a user's own kind of Conv2d is a Conv2d.
    return type_name == DEFAULT or any(base.__name__ == type_name for base in type(layer).__mro__)


def _require_type(
    model: nn.Module, layers: Mapping[str, nn.Module], type_name: str, types: tuple[type[nn.Module], ...]
) -> None:
    if type_name == DEFAULT or any(_is_type(layer, type_name) for layer in layers.values()):
        return
    has = ", ".join(sorted({type(layer).__name__ for layer in layers.values()})) or "none"
    if any(type(module).__name__ == type_name for module in model.modules()):
        supported = ", ".join(kind.__name__ for kind in types)
        raise ConfigError(f"op_types: layers of type {type_name!r} cannot be compressed (supported: {supported})")
    raise ConfigError(
        f"op_types: the model has no layer of type {type_name!r} (its layers that can be compressed: {has})"
    )


def _require_name(
    model: nn.Module, layers: Mapping[str, nn.Module], name: str, types: tuple[type[nn.Module], ...]
) -> None:
    if name in layers:
        return
    modules = dict(model.named_modules())
    if name in modules:
        supported = ", ".join(kind.__name__ for kind in types)
        kind = type(modules[name]).__name__
        raise ConfigError(f"op_names: {name!r} is a {kind}, which cannot be compressed (supported: {supported})")
    raise ConfigError(f"op_names: {unknown_name('layer', name, layers)}")


def _described(target: LayerTarget) -> str:
    parts = []
    if target.op_types:
        parts.append(f"op_types {list(target.op_types)}")
    if target.op_names:
        parts.append(f"op_names {list(target.op_names)}")
    return "the rule for " + " and ".join(parts)
