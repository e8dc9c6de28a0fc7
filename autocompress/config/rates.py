"""The `sparsity` of a search space as an axis of compression rates in [0, 1)."""

from __future__ import annotations

import math

from autocompress.config.plain import is_number
from autocompress.config.values import Values, ValueSpace
from autocompress.errors import ConfigError
from autocompress.search import RateAxis

RATE_TYPES = ("uniform", "quniform", "loguniform", "choice")
"""The `_type`s that a sparsity can have."""

_SMALLEST_Q = 1e-4
_DIGITS = 9


def rounded(rate: float) -> float:
    """The rate rounded to 1e-9, as the search rule rounds: equal rates must be equal."""
    return round(float(rate), _DIGITS)


def rate_axis(key: str, space: Values) -> RateAxis:
    """All rates that a sparsity may take.

    Args:
        key: of the sparsity, for the messages.
        space: its values.

    Raises:
        ConfigError: a `_type` that a rate cannot have, or a rate outside [0, 1).
    """
    if not isinstance(space, ValueSpace):
        raise ConfigError(f"{key} must be a number or an object with '_type' and '_value'; got names: {_names(space)}")
    if space.type not in RATE_TYPES:
        raise ConfigError(f"{key}: '_type' of a sparsity must be one of {', '.join(RATE_TYPES)}; got {space.type!r}")
    rates = space.values if space.type == "choice" else space.values[:2]
    for rate in rates:
        require_rate(key, rate)
    if space.type == "choice":
        return _axis(rates)
    return _multiples(key, space) if space.type == "quniform" else RateAxis(rounded(rates[0]), rounded(rates[1]))


def require_rate(key: str, rate: object) -> None:
    """Check that it is a number in [0, 1).

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(rate, int | float) or not is_number(rate) or not 0 <= rate < 1:
        raise ConfigError(f"{key} must be in [0, 1), numbers only; got {rate!r}")


def cut(key: str, axis: RateAxis, minimal_rate: float, maximal_rate: float) -> RateAxis:
    """The part of the axis from `minimal_rate` to `maximal_rate`.

    Raises:
        ConfigError: no rate of the axis lies there.
    """
    low, high = max(axis.low, rounded(minimal_rate)), min(axis.high, rounded(maximal_rate))
    allowed = [rate for rate in axis.allowed or () if low <= rate <= high]
    if low > high or (axis.allowed is not None and not allowed):
        got = f"[{axis.low}, {axis.high}]" if axis.allowed is None else str(list(axis.allowed))
        raise ConfigError(
            f"{key} must have a rate between minimal_compression_rate {minimal_rate} and "
            f"maximal_compression_rate {maximal_rate}; got {got}"
        )
    return RateAxis(low, high) if axis.allowed is None else _axis(allowed)


def at(axis: RateAxis, position: float) -> float:
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


def _names(space: Values) -> str:
    return "" if isinstance(space, ValueSpace) else ", ".join(name for name, _ in space.members)
