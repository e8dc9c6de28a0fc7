"""Step-halving, the search rule: NNCF's adaptive compression level search as a pure function.

Source: accuracy-aware training of NNCF 2.19 (OpenVINO), "adaptive_compression_level". Where this rule differs on
purpose: a target outside the bounds is clamped to the bound and tried once; the search ends when the step falls below
the minimum, without a last short visit; rates are rounded after each move, so that equal rates are equal.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass, fields

from autocompress.errors import ConfigError

_DIGITS = 9
_RESOLUTION = 1e-9  # a shorter step would be rounded to no move at all


@dataclass(frozen=True)
class Position:
    """A position of the search."""

    rate: float  # requested compression rate, in [minimal_rate, maximal_rate]
    step: float  # size of the last move, in rates
    direction: int = 0  # 0 before the first move, else +1 (up) or -1 (down)
    lr_factor: float = 1.0  # product of all learning rate reductions so far


@dataclass(frozen=True)
class StepHalving:
    """Walk up while feasible, down while not; reduce the step at each turn; end when it is below the minimum.

    On a monotone, noise-free problem it ends with the highest feasible rate within `minimal_step / reduction_factor`
    below the truth, and within `minimal_step` where the steps hit the minimum exactly, as with the defaults.

    Raises:
        ConfigError: an attribute is outside its range.
    """

    initial_rate: float = 0.5  # where the search starts, in [minimal_rate, maximal_rate]
    initial_step: float = 0.1  # size of the first move, >= 1e-9
    minimal_step: float = 0.025  # the search ends when the step falls below it, in [1e-9, initial_step]
    reduction_factor: float = 0.5  # factor on the step at each turn, in (0, 1)
    lr_reduction_factor: float = 0.5  # factor on the learning rates at each turn, in (0, 1]
    minimal_rate: float = 0.0  # lowest rate that is tried, in [0, maximal_rate]
    maximal_rate: float = 0.95  # highest rate that is tried, in [minimal_rate, 1]

    def __post_init__(self) -> None:
        for attribute in fields(self):
            value = getattr(self, attribute.name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
                raise ConfigError(f"{attribute.name} must be a finite number; got {value!r}")
        self._require("maximal_rate", 0 <= self.maximal_rate <= 1, "in [0, 1]")
        self._require("minimal_rate", 0 <= self.minimal_rate <= self.maximal_rate, f"in [0, {self.maximal_rate}]")
        bounds = f"in [{self.minimal_rate}, {self.maximal_rate}]"
        self._require("initial_rate", self.minimal_rate <= self.initial_rate <= self.maximal_rate, bounds)
        self._require("initial_step", self.initial_step >= _RESOLUTION, f">= {_RESOLUTION}")
        steps = f"in [{_RESOLUTION}, {self.initial_step}]"
        self._require("minimal_step", _RESOLUTION <= self.minimal_step <= self.initial_step, steps)
        self._require("reduction_factor", 0 < self.reduction_factor < 1, "in (0, 1)")
        self._require("lr_reduction_factor", 0 < self.lr_reduction_factor <= 1, "in (0, 1]")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"{name} must be {rule}; got {getattr(self, name)!r}")

    def start(self) -> Position:
        """The first position: the initial rate, no direction yet."""
        return Position(rate=round(self.initial_rate, _DIGITS), step=self.initial_step)

    def advance(self, position: Position, feasible: bool) -> Position | None:
        """The position after this one has been decided, or None when the search is finished."""
        direction = 1 if feasible else -1
        if position.rate == self._clamped(position.rate + direction):
            return None  # at the bound it would have to cross
        turned = position.direction not in (0, direction)
        step = position.step * self.reduction_factor if turned else position.step
        if step < self.minimal_step:
            return None
        lr_factor = position.lr_factor * self.lr_reduction_factor if turned else position.lr_factor
        return Position(self._clamped(position.rate + direction * step), step, direction, lr_factor)

    def _clamped(self, rate: float) -> float:
        return round(min(max(rate, self.minimal_rate), self.maximal_rate), _DIGITS)
