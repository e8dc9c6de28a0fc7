"""TensorBoard scalars under NNCF's tags."""

from __future__ import annotations

from typing import Any

from autocompress.records import Proposal, TrialRecord
from autocompress.tracking.facts import figures


class Scalars:
    """Writes what happens; steps are epochs of the whole search.

    Args:
        writer: TensorBoard's `SummaryWriter`, or what has its `add_scalar`; None: nobody is told.
        threshold: the worst tolerable accuracy.
        higher_is_better: direction of the accuracy.
    """

    def __init__(self, writer: Any, threshold: float, higher_is_better: bool) -> None:
        self._writer = writer
        self._threshold, self._higher = threshold, higher_is_better

    def on_proposal(self, proposal: Proposal, epochs: int) -> None:
        """A rate is about to be tried."""
        if proposal.compression_rate is not None:
            self._add("compression/accuracy_aware/target_compression_rate", proposal.compression_rate, epochs)
            self._add("compression/accuracy_aware/compression_rate_step", proposal.step, epochs)

    def on_epoch(self, epochs: int, accuracy: float, budget: float) -> None:
        """The model was validated."""
        self._add("val/accuracy_aware/metric_value", accuracy, epochs)
        self._add("val/accuracy_aware/accuracy_budget", budget, epochs)

    def on_record(self, record: TrialRecord, epochs: int) -> None:
        """A rate was left."""
        for name, value in figures(record).items():
            self._add(f"compression/statistics/{name}", value, epochs)

    def _add(self, tag: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)
