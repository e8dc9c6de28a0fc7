"""Figures of a finished training loop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autocompress.budget import accuracy_margin
from autocompress.result import CompressionResult


@dataclass(frozen=True)
class LoopStatistics:
    """The model that a loop returned, compared with the uncompressed one.

    Attributes:
        uncompressed_accuracy: as the user gave it.
        achieved_rate: measured compression rate in [0, 1).
        compressed_accuracy: of the model loaded from its checkpoint.
        absolute_accuracy_degradation: the loss, in the metric's unit; negative for a gain.
        relative_accuracy_degradation: the same in percent of the uncompressed accuracy's magnitude; infinite at 0.
        accuracy_margin: how far the accuracy is inside the threshold.
        parameters_removed: share of the parameters that are gone or zero.
        macs_removed: share of the multiply-accumulates removed.
        trials: their number.
        epochs: of all of them.
    """

    uncompressed_accuracy: float
    achieved_rate: float
    compressed_accuracy: float
    absolute_accuracy_degradation: float
    relative_accuracy_degradation: float
    accuracy_margin: float
    parameters_removed: float
    macs_removed: float
    trials: int
    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    def to_str(self) -> str:
        """A few lines of text."""
        return "\n".join(
            [
                f"accuracy          {self.compressed_accuracy:g} (uncompressed {self.uncompressed_accuracy:g}, "
                f"{self.absolute_accuracy_degradation:.3g} lost, {self.relative_accuracy_degradation:.3g} %)",
                f"accuracy budget   {self.accuracy_margin:.3g} left",
                f"compression rate  {self.achieved_rate:.4g} ({self.parameters_removed:.1%} of the parameters, "
                f"{self.macs_removed:.1%} of the multiply-accumulates removed)",
                f"search            {self.trials} rates, {self.epochs} epochs",
            ]
        )

    def __str__(self) -> str:
        return self.to_str()


def statistics_of(result: CompressionResult) -> LoopStatistics:
    """The statistics of a finished run.

    Raises:
        InfeasibleBudgetError: nothing stayed within the budget.
    """
    record, baseline, verdict = result.best, result.baseline, result.verdict
    accuracy = record.accuracy if verdict is None else verdict.accuracy
    assert accuracy is not None
    lost = (baseline.accuracy - accuracy) * (1 if baseline.higher_is_better else -1)
    size = abs(baseline.accuracy)
    return LoopStatistics(
        uncompressed_accuracy=baseline.accuracy,
        achieved_rate=record.achieved_rate or 0.0,
        compressed_accuracy=accuracy,
        absolute_accuracy_degradation=lost,
        relative_accuracy_degradation=100 * lost / size if size else float("inf") if lost > 0 else 0.0,
        accuracy_margin=accuracy_margin(accuracy, result.threshold, higher_is_better=baseline.higher_is_better),
        parameters_removed=record.parameters_removed or 0.0,
        macs_removed=record.macs_removed or 0.0,
        trials=len(result.records),
        epochs=sum(each.epochs for each in result.records),
    )
