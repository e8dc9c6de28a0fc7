"""The objectives, and the score that trials are compared by."""

from __future__ import annotations

from collections.abc import Iterable

from autocompress.errors import ConfigError, unknown_name
from autocompress.records import TrialRecord

OBJECTIVES: dict[str, str] = {
    "rate": "achieved_rate",
    "parameters": "parameters_removed",
    "macs": "macs_removed",
    "size": "size_removed",
    "latency": "latency_removed",
}
"""Objective -> the field of `TrialRecord` that holds its achieved reduction."""


def require_objective(name: str) -> str:
    """The name itself, if it is an objective; ConfigError otherwise."""
    if name not in OBJECTIVES:
        raise ConfigError(unknown_name("objective", name, OBJECTIVES))
    return name


def score(reduction: float, accuracy_margin: float, threshold: float) -> float:
    """The number that trials are compared by: the reduction if feasible, else minus the relative shortfall (< 0).

    Args:
        reduction: the objective's achieved reduction; below zero, as of a model that got slower, it counts as none.
        accuracy_margin: how far the accuracy is inside the threshold.
        threshold: the worst tolerable accuracy; the shortfall is relative to its magnitude, absolute where it is zero.
    """
    if accuracy_margin >= 0:
        return max(reduction, 0.0)
    return accuracy_margin / (abs(threshold) or 1.0)


def best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The feasible record with the highest score, among equals the most accurate; None when nothing is feasible."""
    feasible = [record for record in records if record.feasible and record.checkpoint is not None]
    return max(feasible, key=lambda record: (record.score or 0.0, record.accuracy_margin or 0.0), default=None)


def nearest_accuracy(records: Iterable[TrialRecord]) -> float | None:
    """The accuracy with the largest margin of all records; None when none was evaluated."""
    evaluated = [record for record in records if record.accuracy_margin is not None]
    nearest = max(evaluated, key=lambda record: record.accuracy_margin or 0.0, default=None)
    return nearest.accuracy if nearest else None
