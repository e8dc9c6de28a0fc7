"""The assessor: ends trials whose patience, or the epochs of the whole search, are used up. The rule is in `search`."""

from __future__ import annotations

import logging
from typing import Any

from nni.assessor import Assessor, AssessResult

from autocompress.search.assess import reason_to_stop

_logger = logging.getLogger(__name__)


class AdaptiveCompressionAssessor(Assessor):  # type: ignore[misc]  # NNI is not typed
    """Counts the epochs of all trials from their intermediate results.

    Args:
        maximal_total_epochs: the most epochs of all trials together.
        patience: the most epochs of one trial; None where a trial has no limit of its own.
        epochs_before: epochs done before a resume.
    """

    def __init__(self, maximal_total_epochs: int, patience: int | None = None, epochs_before: int = 0) -> None:
        self._maximal_total_epochs = maximal_total_epochs
        self._patience = patience
        self._epochs_before = epochs_before
        self._epochs: dict[str, int] = {}

    def assess_trial(self, trial_job_id: str, trial_history: list[Any]) -> AssessResult:
        """Whether a trial may go on after its latest intermediate result."""
        latest = trial_history[-1]
        self._epochs[trial_job_id] = int(latest["epoch"])
        reason = reason_to_stop(
            self._epochs[trial_job_id],
            patience=self._patience,
            total_epochs=self._epochs_before + sum(self._epochs.values()),
            maximal_total_epochs=self._maximal_total_epochs,
        )
        if reason is None:
            return AssessResult.Good
        _logger.info("trial %s is ended: %s", trial_job_id, reason)
        return AssessResult.Bad
