"""The values a variable may take: NNI's `{"_type": ..., "_value": [...]}`, checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.config.plain import is_number
from autocompress.errors import ConfigError, unknown_name

_LAYOUTS: dict[str, tuple[str, ...]] = {
    "randint": ("low", "high"),
    "uniform": ("low", "high"),
    "quniform": ("low", "high", "q"),
    "loguniform": ("low", "high"),
    "qloguniform": ("low", "high", "q"),
    "normal": ("mu", "sigma"),
    "qnormal": ("mu", "sigma", "q"),
    "lognormal": ("mu", "sigma"),
    "qlognormal": ("mu", "sigma", "q"),
}
TYPES = ("choice", *_LAYOUTS)
"""The `_type`s of NNI's search spaces."""


@dataclass(frozen=True)
class ValueSpace:
    """One variable's values.

    Attributes:
        type: NNI's `_type`.
        values: NNI's `_value`: the options of a choice, else the bounds (or mu and sigma) and, with a `q` type, q.
    """

    type: str
    values: tuple[Any, ...]

    @property
    def is_constant(self) -> bool:
        """Whether there is only one value."""
        return self.type == "choice" and len(self.values) == 1 and _inner(self.values[0]).is_constant

    def middle(self) -> Any:
        """The value where nothing varies it.

        The first option of a choice, the middle of a range (geometric in log types), the centre of a normal type.
        """
        if self.type == "choice":
            return _inner(self.values[0]).middle() if _is_nested(self.values[0]) else copy.deepcopy(self.values[0])
        first, second = self.values[:2]
        if self.type == "randint":
            return (first + second - 1) // 2
        if "normal" in self.type:
            return self._quantized(math.exp(first) if "log" in self.type else first)
        middle = math.sqrt(first * second) if "log" in self.type else (first + second) / 2
        return min(max(self._quantized(middle), first), second)

    def _quantized(self, value: float) -> float:
        return round(value / self.values[2]) * self.values[2] if self.type.startswith("q") else value


@dataclass(frozen=True)
class ValueGroup:
    """Named values under one variable, such as the bits of weight and of output.

    Attributes:
        name: `_name` of an option of a nested choice; None for a plain group.
        members: name -> values.
    """

    name: str | None
    members: tuple[tuple[str, Values], ...]

    @property
    def is_constant(self) -> bool:
        """Whether every member has only one value."""
        return all(member.is_constant for _, member in self.members)

    def middle(self) -> dict[str, Any]:
        """The middle of every member."""
        head = {} if self.name is None else {"_name": self.name}
        return {**head, **{name: member.middle() for name, member in self.members}}


Values = ValueSpace | ValueGroup


def wrap(value: Any) -> dict[str, Any]:
    """A value as NNI 2.10's generator writes it: constants as a choice of one, groups member by member."""
    if not isinstance(value, Mapping):
        return {"_type": "choice", "_value": [copy.deepcopy(value)]}
    if "_type" in value:
        return copy.deepcopy(dict(value))
    return {name: wrap(member) for name, member in value.items()}


def parse_values(key: str, wire: Any) -> Values:
    """The values that `wrap` wrote.

    Args:
        key: of the variable, for the messages.
        wire: plain JSON.

    Raises:
        ConfigError: not NNI's format, an unknown `_type`, or a `_value` that does not fit it.
    """
    if not isinstance(wire, Mapping) or not wire:
        raise ConfigError(f"{key} must be an object with '_type' and '_value'; got {wire!r}")
    if "_type" not in wire:
        return _parse_group(key, wire)
    if set(wire) != {"_type", "_value"}:
        raise ConfigError(f"{key} must have '_type' and '_value' and nothing else; got {sorted(wire)!r}")
    kind, values = wire["_type"], wire["_value"]
    if kind not in TYPES:
        raise ConfigError(f"{key}: {unknown_name('_type', str(kind), TYPES)}")
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{key}: '_value' must be a list that is not empty; got {values!r}")
    _require_layout(key, kind, values)
    return ValueSpace(kind, tuple(values))


def _parse_group(key: str, wire: Mapping[str, Any]) -> ValueGroup:
    members = [(name, member) for name, member in wire.items() if name != "_name"]
    return ValueGroup(
        wire.get("_name"), tuple((name, parse_values(f"{key}.{name}", member)) for name, member in members)
    )


def _require_layout(key: str, kind: str, values: list[Any]) -> None:
    if kind == "choice":
        for index, option in enumerate(values):
            if _is_nested(option):
                _parse_group(f"{key}[{index}]", option)
        return
    layout = _LAYOUTS[kind]
    if len(values) != len(layout) or not all(is_number(value) for value in values):
        raise ConfigError(f"{key}: '_value' of {kind} must be the numbers [{', '.join(layout)}]; got {values!r}")
    rule = _broken_rule(kind, values)
    if rule:
        raise ConfigError(f"{key}: '_value' of {kind} must have {rule}; got {values!r}")


def _broken_rule(kind: str, values: list[Any]) -> str | None:
    first, second = values[:2]
    rules = {
        "whole numbers with low < high": kind != "randint"
        or (isinstance(first, int) and isinstance(second, int) and first < second),
        "low <= high": "normal" in kind or first <= second,
        "low > 0": "loguniform" not in kind or first > 0,
        "sigma >= 0": "normal" not in kind or second >= 0,
        "q > 0": not kind.startswith("q") or values[2] > 0,
    }
    return next((rule for rule, holds in rules.items() if not holds), None)


def _is_nested(option: Any) -> bool:
    return isinstance(option, Mapping) and "_name" in option


def _inner(option: Any) -> ValueGroup:
    """The variables inside an option of a nested choice; none in a plain option."""
    return _parse_group("_value", option) if _is_nested(option) else ValueGroup(None, ())
