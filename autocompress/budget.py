"""How much accuracy a compressed model may lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autocompress.errors import ConfigError

SMALLEST_SHARE, LARGEST_SHARE = 0.0005, 0.5
"""A tolerated loss below or above these shares of the uncompressed accuracy is unlikely to be meant."""


@dataclass(frozen=True)
class AccuracyBudget:
    """The tolerated accuracy degradation: a relative one in percent, or an absolute one, never both.

    The rule is that of NNCF's accuracy-aware training, extended to metrics that are zero, negative, or better when
    lower.

    Attributes:
        maximal_relative_accuracy_degradation: percent of the magnitude of the uncompressed accuracy, >= 0.
        maximal_absolute_accuracy_degradation: in the unit of the evaluator, >= 0.

    Raises:
        ConfigError: both or neither are given, or the one given is negative or not finite.
    """

    maximal_relative_accuracy_degradation: float | None = None
    maximal_absolute_accuracy_degradation: float | None = None

    def __post_init__(self) -> None:
        relative, absolute = self.maximal_relative_accuracy_degradation, self.maximal_absolute_accuracy_degradation
        if (relative is None) == (absolute is None):
            given = "neither is given" if relative is None else f"got both ({relative!r} and {absolute!r})"
            raise ConfigError(
                "exactly one of maximal_relative_accuracy_degradation (percent) and "
                f"maximal_absolute_accuracy_degradation must be set; {given}"
            )
        name = "maximal_relative_accuracy_degradation" if absolute is None else "maximal_absolute_accuracy_degradation"
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ConfigError(f"{name} must be a finite number >= 0; got {value!r}")

    def threshold(self, uncompressed_accuracy: float, *, higher_is_better: bool = True) -> float:
        """The worst accuracy that is still tolerated; reaching it exactly is within the budget.

        Args:
            uncompressed_accuracy: accuracy of the model before compression, in the evaluator's unit.
            higher_is_better: direction of the metric; with False the threshold lies above the uncompressed accuracy.

        Raises:
            ConfigError: the uncompressed accuracy is NaN or infinite.
        """
        if not math.isfinite(uncompressed_accuracy):
            raise ConfigError(f"the uncompressed accuracy must be a finite number; got {uncompressed_accuracy!r}")
        if self.maximal_absolute_accuracy_degradation is not None:
            worse = -1.0 if higher_is_better else 1.0
            return uncompressed_accuracy + worse * self.maximal_absolute_accuracy_degradation
        # One product, as in NNCF, so that a metric exactly at the limit stays exactly at the limit.
        return uncompressed_accuracy * self.threshold_slope(uncompressed_accuracy, higher_is_better=higher_is_better)

    def threshold_slope(self, uncompressed_accuracy: float, *, higher_is_better: bool = True) -> float:
        """By how much the threshold moves where the uncompressed accuracy moves by 1: an absolute budget's by 1.

        Args:
            uncompressed_accuracy: whose sign counts.
            higher_is_better: direction of the metric.
        """
        share = 0.01 * (self.maximal_relative_accuracy_degradation or 0.0)
        away = share if higher_is_better == (uncompressed_accuracy < 0) else -share
        return 1.0 + away

    def unusual(self, uncompressed_accuracy: float | None = None, *, higher_is_better: bool = True) -> str | None:
        """A warning where the budget is below .05 % or above 50 % and likely a mistake; None otherwise.

        Args:
            uncompressed_accuracy: of which the tolerated loss is a share; None: not known, so that an absolute
                degradation cannot be judged.
            higher_is_better: direction of the metric; what is better when lower, a loss, may well rise by more than
                half of a small value.
        """
        percent = self.maximal_relative_accuracy_degradation is not None
        if self.maximal_relative_accuracy_degradation is not None:
            share = 0.01 * self.maximal_relative_accuracy_degradation
        elif uncompressed_accuracy and self.maximal_absolute_accuracy_degradation is not None:
            share = self.maximal_absolute_accuracy_degradation / abs(uncompressed_accuracy)
        else:
            return None
        if share >= SMALLEST_SHARE and (share <= LARGEST_SHARE or not (percent or higher_is_better)):
            return None
        why = "next to nothing may be lost" if share < SMALLEST_SHARE else "most of it may be lost"
        unit = (
            "maximal_relative_accuracy_degradation and --max-relative-drop are in percent: 1 is 1 %"
            if percent
            else "maximal_absolute_accuracy_degradation and --max-absolute-drop are in the evaluator's unit"
        )
        return (
            f"the budget tolerates a loss of {100 * share:.3g} % of the uncompressed accuracy: {why}; is it meant? "
            f"({unit})"
        )

    def require_plausible(
        self, uncompressed_accuracy: float | None = None, *, confirmed: bool, higher_is_better: bool = True
    ) -> str | None:
        """Check that the budget is not an unusual one (see `unusual`), or has been confirmed.

        Returns:
            a warning where it is unusual; None otherwise.

        Raises:
            ConfigError: it is unusual and has not been confirmed.
        """
        unusual = self.unusual(uncompressed_accuracy, higher_is_better=higher_is_better)
        if unusual is not None and not confirmed:
            raise ConfigError(
                f"{unusual} Confirm it with --yes, or to autocompress.compress with budget=AccuracyBudget(...)"
            )
        return unusual


def accuracy_margin(accuracy: float, threshold: float, *, higher_is_better: bool = True) -> float:
    """How far an accuracy is inside the threshold: >= 0 is feasible, in the evaluator's unit."""
    return accuracy - threshold if higher_is_better else threshold - accuracy
