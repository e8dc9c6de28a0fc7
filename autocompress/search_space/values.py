"""The values of a variable: NNI's `{"_type": ..., "_value": [...]}`, checked."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.errors import ConfigError, unknown_name
from autocompress.plain_json import is_number
from autocompress.registry import Argument
from autocompress.search import RateAxis

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
    """One variable's values."""

    type: str  # NNI's `_type`
    # NNI's `_value`: the options of a choice, else the bounds (or mu and sigma) and, with a `q` type, q
    values: tuple[Any, ...]

    @property
    def is_constant(self) -> bool:
        """Whether there is only one value."""
        return self.type == "choice" and len(self.values) == 1 and _inner(self.values[0]).is_constant

    def middle(self) -> Any:
        """The default: the first option of a choice, or the middle of a range (geometric in log types)."""
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
    """Named values under one variable, such as the bits of weight and of output."""

    name: str | None  # `_name` of an option of a nested choice; None for a plain group
    members: tuple[tuple[str, Values], ...]  # name -> values

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
    """The values that `wrap` wrote; `key` names the variable in messages."""
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


RATE_TYPES = ("uniform", "quniform", "loguniform", "choice")
"""The `_type`s that a sparsity can have."""

_SMALLEST_Q = 1e-4
_DIGITS = 9


def rounded(rate: float) -> float:
    """The rate rounded to 1e-9, as the search rule rounds: equal rates must be equal."""
    return round(float(rate), _DIGITS)


def rate_axis(key: str, space: Values) -> RateAxis:
    """The allowed rates of a sparsity."""
    if not isinstance(space, ValueSpace):
        raise ConfigError(
            f"{key} must be a number or an object with '_type' and '_value'; got names: {_member_names(space.members)}"
        )
    if space.type not in RATE_TYPES:
        raise ConfigError(f"{key}: '_type' of a sparsity must be one of {', '.join(RATE_TYPES)}; got {space.type!r}")
    rates = space.values if space.type == "choice" else space.values[:2]
    for rate in rates:
        require_rate(key, rate)
    if space.type == "choice":
        return _axis(rates)
    return _multiples(key, space) if space.type == "quniform" else RateAxis(rounded(rates[0]), rounded(rates[1]))


def require_rate(key: str, rate: object) -> None:
    """Check that it is a number in [0, 1)."""
    if not isinstance(rate, int | float) or not is_number(rate) or not 0 <= rate < 1:
        raise ConfigError(f"{key} must be in [0, 1), numbers only; got {rate!r}")


def restrict(key: str, axis: RateAxis, minimal_rate: float, maximal_rate: float) -> RateAxis:
    """The part of the axis from `minimal_rate` to `maximal_rate`."""
    low, high = max(axis.low, rounded(minimal_rate)), min(axis.high, rounded(maximal_rate))
    allowed = [rate for rate in axis.allowed or () if low <= rate <= high]
    if low > high or (axis.allowed is not None and not allowed):
        got = f"[{axis.low}, {axis.high}]" if axis.allowed is None else str(list(axis.allowed))
        raise ConfigError(
            f"{key} must have a rate between minimal_compression_rate {minimal_rate} and "
            f"maximal_compression_rate {maximal_rate}; got {got}"
        )
    return RateAxis(low, high) if axis.allowed is None else _axis(allowed)


def rate_at(axis: RateAxis, position: float) -> float:
    """The rate at a position in [0, 1]: 0 is the axis' low end, 1 its high end, snapped to what is allowed."""
    return rounded(axis.snap(axis.low + position * (axis.high - axis.low)))


def _axis(rates: tuple[float, ...] | list[float]) -> RateAxis:
    allowed = tuple(sorted({rounded(rate) for rate in rates}))
    return RateAxis(allowed[0], allowed[-1], allowed)


def _multiples(key: str, space: ValueSpace) -> RateAxis:
    low, high, q = space.values
    if q < _SMALLEST_Q:
        raise ConfigError(f"{key}: q of a sparsity must be at least {_SMALLEST_Q}; got {q!r}")
    # Rounded, because 0.3 / 0.1 is 2.9999999999999996.
    multiples = range(math.ceil(rounded(low / q)), math.floor(rounded(high / q)) + 1)
    if not multiples:
        raise ConfigError(
            f"{key}: '_value' of quniform must have a multiple of q between low and high; got {[low, high, q]}"
        )
    return _axis([number * q for number in multiples])


SCHEMES = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")
_RULES: dict[str, Argument] = {
    "quant_bits": Argument("quant_bits", 8, options=tuple(range(1, 33))),
    "quant_dtype": Argument("quant_dtype", "int", options=("int", "uint")),
    "quant_scheme": Argument("quant_scheme", SCHEMES[0], options=SCHEMES),
    "quant_start_step": Argument("quant_start_step", 0),
}


def check_argument(argument: Argument, space: Values) -> None:
    """Check every value that a search may choose for an argument of an algorithm."""
    if not isinstance(space, ValueSpace):
        raise ConfigError(f"{argument.name} must be {argument.rule}; got names: {_member_names(space.members)}")
    for value in _candidates(space):
        argument.check(value)


def check_quantizing(key: str, name: str, quant_types: tuple[str, ...], space: Values) -> None:
    """Check every value that a search may choose for a quantizer's variable, for all quant types or one by one."""
    members = (("", space),) if isinstance(space, ValueSpace) else space.members
    for quant_type, values in members:
        if quant_type and quant_type not in quant_types:
            raise ConfigError(f"{key}: {unknown_name('quant type of this entry', quant_type, quant_types)}")
        if not isinstance(values, ValueSpace):
            raise ConfigError(
                f"{key} must be a value or one for each quant type; got names: {_member_names(values.members)}"
            )
        for value in _candidates(values):
            check_quantizing_value(key, name, quant_types, value)


def check_quantizing_value(key: str, name: str, quant_types: tuple[str, ...], value: Any) -> None:
    """Check one value of a quantizer's variable, for all quant types or an object of one for each."""
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


def _member_names(members: tuple[tuple[str, Values], ...]) -> str:
    return ", ".join(name for name, _ in members)
