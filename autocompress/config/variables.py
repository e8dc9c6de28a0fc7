"""What the values of arguments and of a quantizer's variables may be, before any of them is chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from autocompress.arguments import Argument
from autocompress.config.values import Values, ValueSpace
from autocompress.errors import ConfigError, unknown_name

SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")
_RULES: dict[str, Argument] = {
    "quant_bits": Argument("quant_bits", 8, options=tuple(range(1, 33))),
    "quant_dtype": Argument("quant_dtype", "int", options=("int", "uint")),
    "quant_scheme": Argument("quant_scheme", SCHEMES[0], options=SCHEMES),
    "quant_start_step": Argument("quant_start_step", 0),
}


def check_argument(argument: Argument, space: Values) -> None:
    """Check every value that a search may choose for an argument of an algorithm.

    Raises:
        ConfigError: one is not allowed.
    """
    if not isinstance(space, ValueSpace):
        raise ConfigError(f"{argument.name} must be {argument.rule}; got names: {_names(space.members)}")
    for value in _candidates(space):
        argument.check(value)


def check_quantizing(key: str, name: str, quant_types: tuple[str, ...], space: Values) -> None:
    """Check every value that a search may choose for a quantizer's variable, for all quant types or one by one.

    Raises:
        ConfigError: one is not allowed, or is for a quant type that the entry does not quantize.
    """
    members = (("", space),) if isinstance(space, ValueSpace) else space.members
    for quant_type, values in members:
        if quant_type and quant_type not in quant_types:
            raise ConfigError(f"{key}: {unknown_name('quant type of this entry', quant_type, quant_types)}")
        if not isinstance(values, ValueSpace):
            raise ConfigError(f"{key} must be a value or one for each quant type; got names: {_names(values.members)}")
        for value in _candidates(values):
            check_quantizing_value(key, name, quant_types, value)


def check_quantizing_value(key: str, name: str, quant_types: tuple[str, ...], value: Any) -> None:
    """Check one value of a quantizer's variable, for all quant types or an object of one for each.

    Raises:
        ConfigError: it is not allowed.
    """
    for quant_type, single in value.items() if isinstance(value, Mapping) else [(None, value)]:
        if quant_type is not None and quant_type not in quant_types:
            raise ConfigError(f"{key}: {unknown_name('quant type of this entry', str(quant_type), quant_types)}")
        try:
            _RULES[name].check(single)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error


def _candidates(space: ValueSpace) -> Iterator[Any]:
    """The options of a choice; the middle of a range, and its ends where it has any."""
    if space.type == "choice":
        yield from space.values
        return
    yield space.middle()
    if "normal" not in space.type:
        low, high = space.values[:2]
        yield from (low, high - 1) if space.type == "randint" else (low, high)


def _names(members: tuple[tuple[str, Values], ...]) -> str:
    return ", ".join(name for name, _ in members)
