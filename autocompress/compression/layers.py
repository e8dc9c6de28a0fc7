"""Selection of the layers to compress: supported types, custom layers, scopes and rules."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import ALL_LAYERS, LayerRule
from autocompress.registry import algorithm, algorithms

_M = TypeVar("_M", bound=type[nn.Module])
_CONTROLLER_ALGORITHMS = ("rb_sparsity",)
"""Algorithms that are not in search spaces."""
_REGISTERED: dict[type[nn.Module], frozenset[str]] = {}


def register_module(ignored_algorithms: Sequence[str] = ()) -> Callable[[_M], _M]:
    """Class decorator: lets algorithms compress the parameter `weight` of a custom layer.

    Algorithms on single weights (`level`, `magnitude_sparsity`, the quantizers) compress it. Its filters are never
    removed, since other code may depend on them; layers that share filters with it keep theirs.

    Args:
        ignored_algorithms: names of algorithms that do not compress this class; NNCF's `quantization` stands for all
            quantizers.

    Raises:
        ConfigError: not a subclass of torch.nn.Module, or an unknown algorithm.
    """
    names = frozenset(known for name in ignored_algorithms for known in _algorithm_names(name))

    def register(module: _M) -> _M:
        if not isinstance(module, type) or not issubclass(module, nn.Module):
            raise ConfigError(f"register_module must decorate a class of torch.nn.Module; got {module!r}")
        _REGISTERED[module] = names
        return module

    return register


def registered_types(algorithm_name: str | None = None) -> tuple[type[nn.Module], ...]:
    """The registered classes, or those of them that an algorithm may compress."""
    return tuple(module for module, ignored in _REGISTERED.items() if algorithm_name not in ignored)


def _algorithm_names(name: str) -> list[str]:
    if name == "quantization":
        return [each.name for each in algorithms().values() if each.kind == "quantizer"]
    return [name] if name in _CONTROLLER_ALGORITHMS else [algorithm(name).name]


_MOST_NAMES = 5


def _names(types: Iterable[type[nn.Module]]) -> list[str]:
    return [kind.__name__ for kind in types]


REGEX = "{re}"
"""Prefix of a regular expression, which is searched for in the dotted name."""


@dataclass(frozen=True)
class Scopes:
    """Parts of a model: dotted names of submodules, or `{re}` and a regular expression of them; children included.

    Attributes:
        target: the only parts that may be compressed; empty: all.
        ignored: parts that are never compressed.
        validate: whether a scope that matches nothing is an error.
    """

    target: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    validate: bool = True

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Scopes:
        """The scopes in an algorithm's arguments."""
        target, ignored = arguments.get("target_scopes", ()), arguments.get("ignored_scopes", ())
        return cls(tuple(target), tuple(ignored), bool(arguments.get("validate_scopes", True)))

    def check(self, model: nn.Module) -> None:
        """Check that every scope matches a submodule.

        Raises:
            ConfigError: one does not, or is not a regular expression.
        """
        names = [name for name, _ in model.named_modules() if name]
        for key, scopes in (("target_scopes", self.target), ("ignored_scopes", self.ignored)):
            for scope in scopes:
                if not any(_matches(scope, name) for name in names) and self.validate:
                    raise ConfigError(f"{key}: {_no_match(scope, names)}")

    def allowed(self, model: nn.Module, names: Iterable[str]) -> list[str]:
        """Those of some layers of a model that may be compressed."""
        every = [name for name, _ in model.named_modules()]
        targeted = [
            name for name in names if not self.target or any(_covers(each, name, every) for each in self.target)
        ]
        return [name for name in targeted if not any(_covers(each, name, every) for each in self.ignored)]


ALL_SCOPES = Scopes()
"""No limits."""


def _covers(scope: str, name: str, names: Sequence[str]) -> bool:
    """Whether a scope matches a layer, or a part that contains it and of which it matches nothing inside."""
    if _matches(scope, name):
        return True
    outer = [name[:place] for place, letter in enumerate(name) if letter == "."]
    return any(
        _matches(scope, part) and not any(_matches(scope, each) for each in names if each.startswith(f"{part}."))
        for part in outer
    )


def _matches(scope: str, name: str) -> bool:
    if not scope.startswith(REGEX):
        return name == scope or name.startswith(f"{scope}.")
    try:
        return re.search(scope.removeprefix(REGEX), name) is not None
    except re.error as error:
        raise ConfigError(f"a scope {REGEX!r} must be followed by a regular expression; {scope!r}: {error}") from error


def _no_match(scope: str, names: list[str]) -> str:
    """The message for a scope that matches nothing, with close names."""
    text = scope.removeprefix(REGEX)
    last = re.split(r"\W", text.rstrip("$"))[-1]
    tails = difflib.get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=_MOST_NAMES)
    close = difflib.get_close_matches(text, names, n=_MOST_NAMES)
    close += [name for name in names if name.rpartition(".")[2] in tails and name not in close]
    top = [name for name in names if "." not in name]
    hint = f"close names: {', '.join(close[:_MOST_NAMES])}" if close else f"names at its top: {', '.join(top)}"
    return f"{scope!r} matches nothing in the model ({hint})"


class _LikeTransposedLinear(type):
    """Knows Hugging Face's class by its name, so that its package need not be imported."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return any(
            kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
            for kind in type(instance).__mro__
        )


class TransposedLinear(nn.Module, metaclass=_LikeTransposedLinear):
    """Any linear layer of Hugging Face's class Conv1D, whose weight is (inputs, outputs); never instantiated."""

    weight: nn.Parameter
    bias: nn.Parameter | None


_DENSE_TYPES: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
FILTER_TYPES: tuple[type[nn.Module], ...] = (*_DENSE_TYPES, TransposedLinear)
"""Layers whose filters (output channels, output features) can be removed."""
RECURRENT_TYPES: tuple[type[nn.RNNBase], ...] = (nn.LSTM, nn.GRU, nn.RNN)
"""Layers whose hidden units can be removed."""
PRUNED_TYPES: tuple[type[nn.Module], ...] = (*FILTER_TYPES, *RECURRENT_TYPES)
"""Layers whose filters or hidden units can be removed."""
WEIGHT_TYPES: tuple[type[nn.Module], ...] = (*_DENSE_TYPES, nn.Embedding)
"""Layers whose single weights can be zeroed."""


def weight_types(algorithm: str) -> tuple[type[nn.Module], ...]:
    """Layers whose single weights an algorithm may compress: PyTorch's, and the registered ones."""
    return (*WEIGHT_TYPES, *registered_types(algorithm))


def supported_layers(model: nn.Module, types: tuple[type[nn.Module], ...]) -> dict[str, nn.Module]:
    """All layers of those types by dotted name, in the model's order.

    The output projection inside `nn.MultiheadAttention` is part of the attention, not a layer of its own.
    """
    inner = {
        child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.modules()
    }
    return {name: module for name, module in model.named_modules() if isinstance(module, types) and module not in inner}


def unknown_layers(model: nn.Module, rules: Iterable[LayerRule], algorithm_name: str) -> dict[str, str]:
    """Layers of other libraries, such as GPT-2's Conv1D, that a rule for all layers does not select, each with why."""
    if not any(ALL_LAYERS in rule.op_types and not rule.op_names and not rule.exclude for rule in rules):
        return {}
    found: dict[type[nn.Module], list[str]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        ours = isinstance(module, (*WEIGHT_TYPES, *registered_types())) or type(module).__module__.startswith("torch.")
        if weight is not None and weight.dim() > 1 and not ours:
            found.setdefault(type(module), []).append(name)
    return {
        name: f"{kind.__name__} ({len(names)} layers, such as {names[0]}): {algorithm_name} does not know it; "
        "autocompress.register_module lets it compress such layers; they stay as they are"
        for kind, names in found.items()
        for name in names
    }


def select_layers(
    model: nn.Module,
    targets: Sequence[LayerRule],
    types: tuple[type[nn.Module], ...],
    scopes: Scopes = ALL_SCOPES,
) -> dict[str, LayerRule]:
    """The rule that applies to each selected layer, in the model's order; later rules override earlier ones.

    Raises:
        ConfigError: a rule names an unknown type or layer or selects none, or rules and scopes together select none.
    """
    scopes.check(model)
    layers, chosen = supported_layers(model, types), {}
    for target, names in match_rules(model, targets, types):
        chosen.update(dict.fromkeys(names, target))
    ruled = {name: chosen[name] for name in layers if name in chosen and not chosen[name].exclude}
    selected = {name: ruled[name] for name in scopes.allowed(model, ruled)}
    if not selected:
        why = f"the scopes allow none of {', '.join(ruled)}" if ruled else "the rules select none"
        raise ConfigError(f"at least one layer must be selected for compression; {why}")
    return selected


def match_rules(
    model: nn.Module, targets: Sequence[LayerRule], types: tuple[type[nn.Module], ...]
) -> list[tuple[LayerRule, list[str]]]:
    """Each rule with the names of the layers it selects, in the model's order, before scopes are applied.

    Raises:
        ConfigError: a rule names an unknown type or layer, or selects none.
    """
    layers = supported_layers(model, types)
    return [(target, _rule_matches(model, layers, target, types)) for target in targets]


def layer_rates(
    model: nn.Module,
    targets: Sequence[LayerRule],
    types: tuple[type[nn.Module], ...],
    scopes: Scopes = ALL_SCOPES,
) -> dict[str, float]:
    """The compression rate of each selected layer, in the model's order.

    Raises:
        ConfigError: as `select_layers`; or a rule has no rate, or one outside [0, 1).
    """
    return {name: _rate(target) for name, target in select_layers(model, targets, types, scopes).items()}


def require_one_rate(rates: Mapping[str, float], what: str) -> None:
    """Check that all layers have the same rate; ConfigError if not."""
    if len(set(rates.values())) > 1:
        found = ", ".join(f"{rate:g}" for rate in sorted(set(rates.values())))
        raise ConfigError(f"{what} must have one rate for all layers; the rules have {found}")


def _rate(target: LayerRule) -> float:
    if target.rate is None:
        raise ConfigError(
            f"a rule of a pruner must have a sparsity or be an exclude; the rule for {target} has neither"
        )
    if not 0 <= target.rate < 1:
        raise ConfigError(f"a compression rate must be in [0, 1); the rule for {target} has {target.rate!r}")
    return float(target.rate)


def _rule_matches(
    model: nn.Module, layers: Mapping[str, nn.Module], target: LayerRule, types: tuple[type[nn.Module], ...]
) -> list[str]:
    absent = _absent(model, layers, target)
    for type_name in target.op_types:
        if type_name not in absent or len(absent) == len(target.op_types):
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
        why = "" if layers else _why_no_layer(model, types)
        raise ConfigError(f"a rule must select at least one layer; the rule for {target} selects none{why}")
    return matches


def absent_types(
    model: nn.Module, targets: Sequence[LayerRule], types: tuple[type[nn.Module], ...]
) -> list[tuple[str, LayerRule]]:
    """Types that no layer has, each with the rule that lists it beside others: shared search spaces list several."""
    layers = supported_layers(model, types)
    found = ((target, _absent(model, layers, target)) for target in targets)
    return [(name, target) for target, names in found if len(names) < len(target.op_types) for name in names]


def _absent(model: nn.Module, layers: Mapping[str, nn.Module], target: LayerRule) -> list[str]:
    present = {type(module).__name__ for module in model.modules()} | {ALL_LAYERS}
    return [
        name
        for name in target.op_types
        if name not in present and not any(_is_type(layer, name) for layer in layers.values())
    ]


def _why_no_layer(model: nn.Module, types: tuple[type[nn.Module], ...]) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return ": layers that torch.jit has scripted or traced cannot be changed; model() must return the net itself"
    has = ", ".join(sorted({type(module).__name__ for module in model.modules() if not list(module.children())}))
    return f": the model has none that can be compressed (it has {has}; supported: {', '.join(_names(types))})"


def _is_type(layer: nn.Module, type_name: str) -> bool:
    # Base classes count: a subclass of Conv2d is a Conv2d.
    return type_name == ALL_LAYERS or any(base.__name__ == type_name for base in type(layer).__mro__)


def _require_type(
    model: nn.Module, layers: Mapping[str, nn.Module], type_name: str, types: tuple[type[nn.Module], ...]
) -> None:
    if type_name == ALL_LAYERS or any(_is_type(layer, type_name) for layer in layers.values()):
        return
    has = ", ".join(sorted({type(layer).__name__ for layer in layers.values()})) or "none"
    if any(type(module).__name__ == type_name for module in model.modules()):
        supported = ", ".join(_names(types))
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
        supported = ", ".join(_names(types))
        kind = type(modules[name]).__name__
        raise ConfigError(f"op_names: {name!r} is a {kind}, which cannot be compressed (supported: {supported})")
    raise ConfigError(f"op_names: {unknown_name('layer', name, layers)}")
