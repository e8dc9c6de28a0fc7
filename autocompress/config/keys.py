"""Keys of NNI's auto-compress search space, as NNI 2.10 writes them.

A pruner's variable:    config_list::<op_types joined by :>::<op_names joined by :>::<variable>
A quantizer's variable: config_list::<quant_types joined by :>::<op_types ...>::<op_names ...>::<variable>
An algorithm argument:  parameter::<name>
"""

from __future__ import annotations

from dataclasses import dataclass

from autocompress.algorithms import Kind
from autocompress.errors import ConfigError, unknown_name

QUANT_TYPES = ("input", "output", "weight")
"""What a quantizer can quantize in a layer."""

LAYER_KEY = "config_list"
ARGUMENT_KEY = "parameter"
FORMATS: dict[Kind, str] = {
    "pruner": "config_list::<op_types>::<op_names>::<variable>",
    "quantizer": "config_list::<quant_types>::<op_types>::<op_names>::<variable>",
    "mix": "config_list::[<quant_types>::]<op_types>::<op_names>::<variable>",
}
_PARTS: dict[Kind, tuple[int, ...]] = {"pruner": (3,), "quantizer": (4,), "mix": (3, 4)}


@dataclass(frozen=True)
class LayerKey:
    """A variable of the layers that one config entry selects.

    Attributes:
        op_types: types of the layers ("Conv2d", or "default" for all that the algorithm supports); may be empty.
        op_names: names of the layers in the model; may be empty, but not together with `op_types`.
        variable: name of the variable ("sparsity", "exclude", "quant_bits", ...).
        quant_types: what a quantizer quantizes there; None in the key of a pruner.

    Raises:
        ConfigError: neither op_types nor op_names, or a name that the format cannot carry.
    """

    op_types: tuple[str, ...]
    op_names: tuple[str, ...]
    variable: str
    quant_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _require_names("op_types", self.op_types)
        _require_names("op_names", self.op_names)
        _require_names("variable", (self.variable,))
        _require_names("quant_types", self.quant_types or ())
        for name in self.quant_types or ():
            if name not in QUANT_TYPES:
                raise ConfigError(unknown_name("quant type", name, QUANT_TYPES))
        if not self.op_types and not self.op_names:
            raise ConfigError("a config entry must have op_types or op_names; got neither")

    def __str__(self) -> str:
        lists = [self.op_types, self.op_names]
        if self.quant_types is not None:
            lists.insert(0, self.quant_types)
        return "::".join([LAYER_KEY, *(":".join(names) for names in lists), self.variable])


@dataclass(frozen=True)
class ArgumentKey:
    """An argument of the algorithm itself.

    Raises:
        ConfigError: a name that the format cannot carry.
    """

    name: str

    def __post_init__(self) -> None:
        _require_names(ARGUMENT_KEY, (self.name,))

    def __str__(self) -> str:
        return f"{ARGUMENT_KEY}::{self.name}"


Key = LayerKey | ArgumentKey


def parse_key(text: str, kind: Kind) -> Key:
    """The key that `str` of it wrote.

    Args:
        text: key of a search space or of a trial's parameters.
        kind: of the algorithm it belongs to; a quantizer's keys have one part more, a mix has keys of both.

    Raises:
        ConfigError: the text has neither of the two formats of this kind, or a part of it breaks a rule.
    """
    head, *parts = text.split("::")
    try:
        if head == ARGUMENT_KEY and len(parts) == 1:
            return ArgumentKey(parts[0])
        if head == LAYER_KEY and len(parts) in _PARTS[kind]:
            *lists, variable = parts
            *quant_types, op_types, op_names = [tuple(part.split(":")) if part else () for part in lists]
            return LayerKey(op_types, op_names, variable, quant_types[0] if quant_types else None)
    except ConfigError as error:
        raise ConfigError(f"key {text!r}: {error}") from error
    raise ConfigError(f"a key of a {kind} must be {FORMATS[kind]!r} or 'parameter::<name>'; got {text!r}")


def _require_names(what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if not name or ":" in name:
            raise ConfigError(f"a name in {what} must be a string without ':' that is not empty; got {name!r}")
    if len(set(names)) < len(names):
        raise ConfigError(f"{what} must not name anything twice; got {list(names)!r}")
