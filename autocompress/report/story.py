"""What a report is made of: an experiment's files, read once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autocompress.budget import AccuracyBudget, accuracy_budget
from autocompress.errors import StoreError
from autocompress.records import Baseline, ModelSizes, Proposal, TrialRecord
from autocompress.search import OBJECTIVES, best, require_objective
from autocompress.store import ExperimentDirectory, Ledger, Verdict


@dataclass(frozen=True)
class Story:
    """An experiment as it is told.

    Attributes:
        directory: its files.
        module: name of the user's class.
        settings: all of `experiment.json`.
        baseline: the uncompressed model.
        threshold: the worst tolerable accuracy.
        records: of all trials in the order they ended.
        best: the best feasible one; None where there is none.
        verdicts: of trials whose checkpoint was loaded afresh, by key.
        proposals: what the rule asked, by key; none where a stock tuner chose.
        curves: learning curves, by key: objects with `epoch` (from 1) and `accuracy`.
        sizes: the best model's layers beside the uncompressed ones; None before it was verified.
    """

    directory: Path
    module: str
    settings: Mapping[str, Any]
    baseline: Baseline
    threshold: float
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    verdicts: Mapping[str, Verdict]
    proposals: Mapping[str, Proposal]
    curves: Mapping[str, list[dict[str, Any]]]
    sizes: ModelSizes | None

    @property
    def objective(self) -> str:
        """What trials are compared by."""
        return str(self.settings["objective"])

    @property
    def tuner(self) -> str:
        """Name of what chose the trials."""
        return str(self.settings["tuner"])

    @property
    def algorithms(self) -> list[str]:
        """Names of the algorithms that were tried, in that order."""
        return list(dict.fromkeys(record.algorithm for record in self.records))

    @property
    def verdict(self) -> Verdict | None:
        """What the best model evaluated to when loaded afresh."""
        return self.verdicts.get(self.best.key) if self.best else None

    @property
    def holdout_threshold(self) -> float | None:
        """The worst accuracy on hold-out data that the same budget tolerates there; None without such data."""
        if self.baseline.holdout_accuracy is None:
            return None
        rules = ("maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation")
        budget = AccuracyBudget(*(self.settings["settings"][rule] for rule in rules))
        return budget.threshold(self.baseline.holdout_accuracy, higher_is_better=self.baseline.higher_is_better)

    @property
    def holdout_margin(self) -> float | None:
        """How far the best model's hold-out accuracy is inside the threshold there; None where it is not known."""
        threshold, verdict = self.holdout_threshold, self.verdict
        if threshold is None or verdict is None or verdict.holdout_accuracy is None:
            return None
        return accuracy_budget(verdict.holdout_accuracy, threshold, higher_is_better=self.baseline.higher_is_better)

    @property
    def nearest_failure(self) -> TrialRecord | None:
        """The trial outside the budget that removed least beyond the best one, of the best one's algorithm."""
        if self.best is None:
            return None
        reached = self.reduction(self.best) or 0.0
        outside = [
            record
            for record in self.records
            if record.algorithm == self.best.algorithm
            and record.accuracy is not None
            and not record.feasible
            and (self.reduction(record) or 0.0) >= reached
        ]
        return min(outside, key=lambda record: self.reduction(record) or 0.0, default=None)

    def reduction(self, record: TrialRecord) -> float | None:
        """The objective's achieved reduction of a trial."""
        value: float | None = getattr(record, OBJECTIVES[self.objective])
        return value

    def simulated_margin(self, record: TrialRecord) -> float:
        """How far a trial was inside the threshold while rounding was simulated; minus infinity where it was not."""
        if record.simulated_accuracy is None:
            return -math.inf
        higher = self.baseline.higher_is_better
        return accuracy_budget(record.simulated_accuracy, self.threshold, higher_is_better=higher)

    def spread(self, record: TrialRecord) -> tuple[float, float] | None:
        """The lowest and the highest accuracy that a trial had while it was fine-tuned."""
        accuracies = [point["accuracy"] for point in self.curves.get(record.key, ()) if "accuracy" in point]
        return (min(accuracies), max(accuracies)) if len(accuracies) > 1 else None


def story_of(directory: ExperimentDirectory) -> Story:
    """The story of the experiment in a directory.

    Raises:
        StoreError: there is none, its baseline has not been measured, or its files are damaged.
        ConfigError: its settings or its objective break a rule.
    """
    settings, ledger = directory.settings(), Ledger(directory)
    found = best(ledger.standing)
    require_objective(settings["objective"])
    from autocompress.config import AccuracyAwareSettings  # here: results load without pydantic

    settings["settings"] = AccuracyAwareSettings.from_record(settings["settings"]).to_dict()
    if settings["threshold"] is None:
        raise StoreError(f"{directory.settings_path} must have a threshold; the baseline has not been measured")
    return Story(
        directory=directory.path,
        module=settings["module"].get("class_name", ""),
        settings=settings,
        baseline=Baseline.from_dict(settings["baseline"]),
        threshold=settings["threshold"],
        records=tuple(ledger.records),
        best=found,
        verdicts=ledger.verdicts,
        proposals={key: asked.proposal for key, asked in ledger.asked.items() if asked.proposal},
        curves={record.key: directory.trial(record.key).curve() for record in ledger.records},
        sizes=directory.trial(found.key).sizes() if found else None,
    )
