"""The rates that an algorithm can be asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RateAxis:
    """A range of compression rates, continuous or a list of allowed ones.

    Attributes:
        low: lowest rate.
        high: highest rate.
        allowed: the allowed rates in ascending order; None where every rate from low to high is allowed.
    """

    low: float
    high: float
    allowed: tuple[float, ...] | None = None

    def snap(self, rate: float) -> float:
        """The allowed rate nearest to `rate`, the lower one of two equally near."""
        if self.allowed is None:
            return min(max(rate, self.low), self.high)
        return min(self.allowed, key=lambda known: (abs(known - rate), known))
