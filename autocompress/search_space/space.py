"""Search spaces, and the one rate of an algorithm that the adaptive search moves.

Keys are as NNI 2.10 writes them:

A pruner's variable:    config_list::<op_types joined by :>::<op_names joined by :>::<variable>
A quantizer's variable: config_list::<quant_types joined by :>::<op_types ...>::<op_names ...>::<variable>
An algorithm argument:  parameter::<name>
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import LayerSelector, require_names
from autocompress.plain_json import plain
from autocompress.registry import Algorithm, Argument, Kind, algorithm
from autocompress.search import RateAxis
from autocompress.search_space.values import (
    Values,
    ValueSpace,
    check_argument,
    check_quantizing,
    parse_values,
    rate_at,
    rate_axis,
    restrict,
    rounded,
)

LAYER_KEY = "config_list"
ARGUMENT_KEY = "parameter"
FORMATS: dict[Kind, str] = {
    "pruner": "config_list::<op_types>::<op_names>::<variable>",
    "quantizer": "config_list::<quant_types>::<op_types>::<op_names>::<variable>",
    "mix": "config_list::[<quant_types>::]<op_types>::<op_names>::<variable>",
}
_PARTS: dict[Kind, tuple[int, ...]] = {"pruner": (3,), "quantizer": (4,), "mix": (3, 4)}


def argument_key(name: str) -> str:
    """The key of an argument of the algorithm itself: `parameter::<name>`."""
    require_names(ARGUMENT_KEY, (name,))
    return f"{ARGUMENT_KEY}::{name}"


def parse_key(text: str, kind: Kind) -> tuple[LayerSelector | None, str]:
    """Parse a key of a search space or of a trial's parameters; a quantizer's has one part more, a mix has both kinds.

    Returns:
        the layers and the name of their variable; for an argument of the algorithm itself None and its name.
    """
    head, *parts = text.split("::")
    try:
        if head == ARGUMENT_KEY and len(parts) == 1:
            require_names(ARGUMENT_KEY, (parts[0],))
            return None, parts[0]
        if head == LAYER_KEY and len(parts) in _PARTS[kind]:
            *lists, variable = parts
            *quant_types, op_types, op_names = [tuple(part.split(":")) if part else () for part in lists]
            selector = LayerSelector(op_types, op_names, quant_types[0] if quant_types else None)
            selector.key(variable)
            return selector, variable
    except ConfigError as error:
        raise ConfigError(f"key {text!r}: {error}") from error
    raise ConfigError(f"a key of a {kind} must be {FORMATS[kind]!r} or 'parameter::<name>'; got {text!r}")


VARIABLES: dict[Kind, tuple[str, ...]] = {  # by the kind of an entry: a mix has entries of both
    "pruner": ("sparsity", "exclude"),
    "quantizer": ("quant_bits", "quant_dtype", "quant_scheme", "quant_start_step", "exclude"),
}
"""Variables of an entry."""


def variables_of(known: Algorithm, kind: Kind) -> tuple[str, ...]:
    """The variables that an algorithm's entry may have.

    A quantizer that can leave layers in floating point has a `sparsity`, too: the share of the weights' bits to save.
    In a mix it has none, as one accuracy cannot tell which of two rates to move.
    """
    return ("sparsity", *VARIABLES[kind]) if kind == "quantizer" and most_saved(known) is not None else VARIABLES[kind]


def most_saved(known: Algorithm) -> float | None:
    """The highest rate of a quantizer; None where it has none."""
    found: float | None = getattr(known, "most_saved", None)
    return found


SELECTORS: dict[Kind, tuple[str, ...]] = {
    "pruner": ("op_types", "op_names"),
    "quantizer": ("quant_types", "op_types", "op_names"),
}
"""What selects the layers of an entry."""

_V = TypeVar("_V")


def named_algorithm(wire: Any, where: str) -> Algorithm:
    """The algorithm of an object with `_name`."""
    name = wire.get("_name") if isinstance(wire, dict) else None
    if not isinstance(name, str):
        raise ConfigError(f"{where} must be an object with '_name', the name of an algorithm; got {wire!r}")
    return algorithm(name)


def split(known: Algorithm, wire: dict[str, _V]) -> tuple[dict[LayerSelector, dict[str, _V]], dict[str, _V]]:
    """The entries and the algorithm arguments that an algorithm's keys form, each in the order of the keys."""
    entries: dict[LayerSelector, dict[str, _V]] = {}
    arguments: dict[str, _V] = {}
    for text, value in wire.items():
        if text == "_name":
            continue
        layers, name = parse_key(text, known.kind)
        if layers is None:
            argument = require_argument(known, name)
            value = value if name == argument.name else _translated(argument, value)
            if arguments.setdefault(argument.name, value) != value:
                other = argument.formerly[0] if argument.formerly else name
                raise ConfigError(
                    f"{argument.name} and {other}, which is NNI's name of it, must agree; got "
                    f"{arguments[argument.name]!r} and {value!r}"
                )
        else:
            entries.setdefault(layers, {})[name] = value
    require_entries(known, ((layers, list(entry)) for layers, entry in entries.items()))
    return entries, arguments


def require_argument(known: Algorithm, name: str) -> Argument:
    """The algorithm's argument of that name, or of that name in NNI 2.10."""
    arguments = {argument.name: argument for argument in known.arguments}
    former = {argument.formerly[0]: argument for argument in known.arguments if argument.formerly is not None}
    if name not in arguments and name not in former:
        raise ConfigError(unknown_name(f"argument of {known.name!r}", name, arguments))
    return arguments[name] if name in arguments else former[name]


def _translated(argument: Argument, value: Any) -> Any:
    """A value, or a choice of values, of an argument's former name in the values that it has now."""
    name, pairs = argument.formerly or ("", ())
    values = dict(pairs)
    if isinstance(value, Mapping) and value.get("_type") == "choice" and isinstance(value.get("_value"), list):
        return {**value, "_value": list(dict.fromkeys(_translated(argument, each) for each in value["_value"]))}
    if not isinstance(value, str) or value not in values:
        raise ConfigError(f"{name} must be one of {', '.join(map(repr, values))}; got {value!r}")
    return values[value]


def entry_kind(quant_types: tuple[str, ...] | None) -> Kind:
    """Kind of the algorithm of an entry: one with quant types is a quantizer's."""
    return "pruner" if quant_types is None else "quantizer"


def require_entries(known: Algorithm, entries: Iterable[tuple[LayerSelector, list[str]]]) -> None:
    """Check the entries of an algorithm, each given by its layers and the names of its variables."""
    seen: set[tuple[Kind, tuple[frozenset[str], ...]]] = set()
    wanted = [part.kind for part in known.stages]
    for layers, variables in entries:
        kind = entry_kind(layers.quant_types)
        _require_variables(kind, layers, variables, variables_of(known, kind))
        same = kind, tuple(frozenset(names or ()) for names in (layers.op_types, layers.op_names, layers.quant_types))
        if same in seen:
            raise ConfigError(f"config_list must not have two entries for the same layers; got {layers} twice")
        seen.add(same)
        if "exclude" not in variables and kind in wanted:
            wanted.remove(kind)
    if wanted:
        of = f" of its {wanted[0]}" if known.parts else ""
        got = f"{len(seen)} with exclude" if seen and not known.parts else "none" if known.parts else "an empty list"
        raise ConfigError(f"config_list must have at least one entry{of} that compresses; got {got}")


def require_true(key: str, value: Any) -> None:
    """Check the value of `exclude`."""
    if value is not True:
        raise ConfigError(f"{key} must be true (leave exclude out to compress the layers); got {value!r}")


def _require_variables(kind: Kind, layers: LayerSelector, variables: list[str], allowed: tuple[str, ...]) -> None:
    for name in variables:
        if name not in allowed:
            raise ConfigError(unknown_name(f"variable of a {kind}", name, allowed))
    if "exclude" in variables and len(variables) > 1:
        raise ConfigError(f"an entry must have {' or '.join(variables)}, not both; got both for {layers}")
    if kind == "quantizer" and "exclude" not in variables and not layers.quant_types:
        raise ConfigError(f"an entry of a quantizer must have quant_types; got none for {layers}")


@dataclass(frozen=True)
class LayerSpace(LayerSelector):
    """One entry of a config list with the values that its variables may take."""

    exclude: bool = False  # whether these layers stay as they are
    sparsity: ValueSpace | None = None  # values of the sparsity of these layers; None where the entry has none
    variables: tuple[tuple[str, Values], ...] = ()  # the other variables, such as quant_bits, in their order


@dataclass(frozen=True)
class AlgorithmSpace:
    """The search space of one algorithm."""

    name: str  # of the algorithm
    kind: Kind  # pruner, quantizer or mix
    entries: tuple[LayerSpace, ...]  # the config list
    arguments: tuple[tuple[str, Values], ...] = ()  # values of the algorithm's arguments

    @classmethod
    def parse(cls, wire: Any) -> AlgorithmSpace:
        """Parse one option of the choice of algorithms."""
        known = named_algorithm(wire, "an option of algorithm_name")
        try:
            entries, arguments = split(known, wire)
            rules = tuple(_rule(layers, entry, most_saved(known)) for layers, entry in entries.items())
            parsed = [(name, _argument(known, name, value)) for name, value in arguments.items()]
            return cls(known.name, known.kind, rules, tuple(parsed))
        except ConfigError as error:
            raise ConfigError(f"algorithm {known.name!r}: {error}") from error

    def axis(self, minimal_rate: float = 0.0, maximal_rate: float = 1.0) -> RateAxis | None:
        """The range that the adaptive search moves in, every sparsity cut to the given bounds.

        The values of the only sparsity that has several; with more of them [0, 1], a position that moves all together,
        each from its own low to its own high. None where nothing can move.
        """
        return _common(self._axes(minimal_rate, maximal_rate))

    def parameters(self, rate: float | None, minimal_rate: float = 0.0, maximal_rate: float = 1.0) -> dict[str, Any]:
        """The parameters of a trial at a rate of `axis` with the same bounds, sparsities rounded to 1e-9.

        They are `{"algorithm_name": {"_name": ..., "config_list::...": value, "parameter::...": value}}`.

        Raises:
            ConfigError: the rate is not on the axis.
        """
        sparsities = self._sparsities(rate, self._axes(minimal_rate, maximal_rate))
        values: dict[str, Any] = {"_name": self.name}
        for key, space in self.items():
            values[key] = sparsities[key] if key in sparsities else space.middle()
        return {"algorithm_name": values}

    def begins_uncompressed(self, minimal_rate: float = 0.0, maximal_rate: float = 1.0) -> bool:
        """Whether nothing is removed at the lowest rate of `axis`, nor changed in another way."""
        axes = self._axes(minimal_rate, maximal_rate)
        axis = _common(axes)
        if self.kind == "mix" or axis is None:
            return False
        return axis.low == 0 and not any(self._sparsities(axis.low, axes).values())

    def items(self) -> list[tuple[str, Values]]:
        """Key and values of every variable, in the order of the config list; arguments last."""
        items: list[tuple[str, Values]] = []
        for entry in self.entries:
            if entry.exclude:
                items.append((entry.key("exclude"), ValueSpace("choice", (True,))))
            if entry.sparsity is not None:
                items.append((entry.key("sparsity"), entry.sparsity))
            items += [(entry.key(name), values) for name, values in entry.variables]
        return items + [(argument_key(name), values) for name, values in self.arguments]

    def may_have(self, argument: str, value: Any) -> bool:
        """Whether a trial may have that value of an argument of the algorithm."""
        values = dict(self.arguments).get(argument)
        return isinstance(values, ValueSpace) and values.type == "choice" and value in values.values

    @property
    def fixed_variables(self) -> tuple[tuple[str, Any], ...]:
        """Key and value of every variable that could vary but is fixed by the adaptive search."""
        moved = {entry.key("sparsity") for entry in self.entries if entry.sparsity}
        return tuple((key, space.middle()) for key, space in self.items() if key not in moved and not space.is_constant)

    def _axes(self, minimal_rate: float, maximal_rate: float) -> dict[str, RateAxis]:
        """Key -> axis of every sparsity, cut to the bounds; constants stay as they are."""
        sparsities = [(entry.key("sparsity"), entry.sparsity) for entry in self.entries if entry.sparsity]
        axes = {key: rate_axis(key, sparsity) for key, sparsity in sparsities}
        return {
            key: restrict(key, axis, minimal_rate, maximal_rate) if axis.low < axis.high else axis
            for key, axis in axes.items()
        }

    def _sparsities(self, rate: float | None, axes: dict[str, RateAxis]) -> dict[str, float]:
        """Key -> value of every sparsity."""
        moved = _common(axes)
        if moved is None:
            rule, holds = "None, as no sparsity has several values", rate is None
        else:
            rule = f"in [{moved.low}, {moved.high}]"
            holds = rate is not None and moved.low <= rounded(rate) <= moved.high
        if not holds:
            raise ConfigError(f"the rate of algorithm {self.name!r} must be {rule}; got {rate!r}")
        if rate is None:
            return {key: axis.low for key, axis in axes.items()}
        if moved in axes.values():
            return {key: axis.snap(rounded(rate)) for key, axis in axes.items()}
        return {key: rate_at(axis, rate) for key, axis in axes.items()}


def _common(axes: dict[str, RateAxis]) -> RateAxis | None:
    """The axis of the only sparsity that moves, or a position in [0, 1] for several."""
    moving = [axis for axis in axes.values() if axis.low < axis.high]
    if len(moving) > 1:
        return RateAxis(0.0, 1.0)
    return moving[0] if moving else None


def _argument(known: Algorithm, name: str, wire: Any) -> Values:
    values = parse_values(argument_key(name), wire)
    check_argument(require_argument(known, name), values)
    return values


def _rule(layers: LayerSelector, entry: dict[str, Any], most: float | None) -> LayerSpace:
    values = {name: parse_values(layers.key(name), value) for name, value in entry.items()}
    exclude, sparsity = values.pop("exclude", None), values.pop("sparsity", None)
    if exclude is not None:
        require_true(layers.key("exclude"), exclude.middle() if exclude.is_constant else entry["exclude"])
    if sparsity is not None:
        axis = rate_axis(layers.key("sparsity"), sparsity)
        if most is not None and axis.high > most:
            raise ConfigError(
                f"{layers.key('sparsity')} is the share of the bits to save, and must be at most {most:g}, which all "
                f"layers save together; got {axis.high:g}"
            )
    for name, variable in values.items():
        check_quantizing(layers.key(name), name, layers.quant_types or (), variable)
    rate = sparsity if isinstance(sparsity, ValueSpace) else None
    return LayerSpace(
        layers.op_types, layers.op_names, layers.quant_types, exclude is not None, rate, tuple(values.items())
    )


ALGORITHM_KEY = "algorithm_name"


@dataclass(frozen=True)
class SearchSpace:
    """A checked search space in NNI 2.10's auto-compress format."""

    algorithms: tuple[AlgorithmSpace, ...]  # what it offers, in its order, each at most once
    text: str  # the JSON it came from

    @classmethod
    def parse(cls, wire: Mapping[str, Any]) -> SearchSpace:
        """Check a search space, as `AutoCompressionSearchSpaceGenerator.dumps` or a JSON file gives it.

        Raises:
            ConfigError: naming the algorithm and the key, the rule that is broken, and the value.
        """
        copied = plain("the search space", wire)
        algorithms = tuple(AlgorithmSpace.parse(option) for option in _options(copied))
        if not algorithms:
            raise ConfigError(f"{ALGORITHM_KEY}: '_value' must have at least one algorithm; got none")
        names = [algorithm.name for algorithm in algorithms]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"a search space must have each algorithm once; got {name!r} {names.count(name)} times"
                )
        return cls(algorithms, json.dumps(copied))

    @property
    def wire(self) -> dict[str, Any]:
        """A new copy of the JSON object it came from."""
        loaded: dict[str, Any] = json.loads(self.text)
        return loaded

    def algorithm(self, name: str) -> AlgorithmSpace:
        """The space of one algorithm."""
        for found in self.algorithms:
            if found.name == name:
                return found
        names = [algorithm.name for algorithm in self.algorithms]
        raise ConfigError(unknown_name("algorithm of the search space", name, names))


def _options(wire: Any) -> list[Any]:
    if not isinstance(wire, dict) or set(wire) != {ALGORITHM_KEY}:
        got = sorted(wire) if isinstance(wire, dict) else wire
        raise ConfigError(f"a search space must be an object with the one key {ALGORITHM_KEY!r}; got {got!r}")
    choice = wire[ALGORITHM_KEY]
    if not isinstance(choice, dict) or set(choice) != {"_type", "_value"} or choice["_type"] != "choice":
        raise ConfigError(f"{ALGORITHM_KEY} must be {{'_type': 'choice', '_value': [...]}}; got {choice!r}")
    if not isinstance(choice["_value"], list):
        raise ConfigError(f"{ALGORITHM_KEY}: '_value' must be a list of algorithms; got {choice['_value']!r}")
    return choice["_value"]


def algorithm_names(search_space: Any) -> list[str]:
    """Names of the algorithms in NNI's wire format, known or not; empty where it is something else."""
    try:
        return [str(option["_name"]) for option in search_space[ALGORITHM_KEY]["_value"]]
    except (KeyError, TypeError):
        return []
