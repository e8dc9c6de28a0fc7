"""Keys of NNI's auto-compress search space, as NNI 2.10 writes them.

A pruner's variable:    config_list::<op_types joined by :>::<op_names joined by :>::<variable>
A quantizer's variable: config_list::<quant_types joined by :>::<op_types ...>::<op_names ...>::<variable>
An algorithm argument:  parameter::<name>
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from autocompress.errors import ConfigError, unknown_name
from autocompress.layer_selector import LayerSelector, require_names
from autocompress.registry import Algorithm, Argument, Kind, algorithm

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
            require_argument(known, name)
            arguments[name] = value
        else:
            entries.setdefault(layers, {})[name] = value
    require_entries(known, ((layers, list(entry)) for layers, entry in entries.items()))
    return entries, arguments


def require_argument(known: Algorithm, name: str) -> Argument:
    """The algorithm's argument of that name."""
    arguments = {argument.name: argument for argument in known.arguments}
    if name not in arguments:
        raise ConfigError(unknown_name(f"argument of {known.name!r}", name, arguments))
    return arguments[name]


def entry_kind(quant_types: tuple[str, ...] | None) -> Kind:
    """Kind of the algorithm of an entry: one with quant types is a quantizer's."""
    return "pruner" if quant_types is None else "quantizer"


def require_entries(known: Algorithm, entries: Iterable[tuple[LayerSelector, list[str]]]) -> None:
    """Check the entries of an algorithm, each given by its layers and the names of its variables."""
    seen: set[tuple[Kind, tuple[frozenset[str], ...]]] = set()
    wanted = [part.kind for part in known.stages]
    for layers, variables in entries:
        kind = entry_kind(layers.quant_types)
        _require_variables(kind, layers, variables)
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


def _require_variables(kind: Kind, layers: LayerSelector, variables: list[str]) -> None:
    for name in variables:
        if name not in VARIABLES[kind]:
            raise ConfigError(unknown_name(f"variable of a {kind}", name, VARIABLES[kind]))
    if "exclude" in variables and len(variables) > 1:
        raise ConfigError(f"an entry must have {' or '.join(variables)}, not both; got both for {layers}")
    if kind == "quantizer" and "exclude" not in variables and not layers.quant_types:
        raise ConfigError(f"an entry of a quantizer must have quant_types; got none for {layers}")
