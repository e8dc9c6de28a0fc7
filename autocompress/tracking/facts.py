"""What trackers are told of a trial, by the same names in each."""

from __future__ import annotations

from typing import Any

from autocompress.records import TrialRecord
from autocompress.store import OpenTrial

_FIGURES = (
    "requested_rate",
    "compression_rate",
    "accuracy",
    "accuracy_budget",
    "score",
    "parameters_removed",
    "macs_removed",
    "size_removed",
    "latency_removed",
    "epochs",
    "seconds",
)


def figures(record: TrialRecord) -> dict[str, float]:
    """The numbers of a trial that it has."""
    found = {name: getattr(record, name) for name in _FIGURES}
    return {
        **{name: float(value) for name, value in found.items() if value is not None},
        "feasible": float(record.feasible),
    }


def choices(trial: OpenTrial) -> dict[str, Any]:
    """What a trial was asked to do."""
    search = trial.parameters.get("search") or {}
    chosen = {name: value for name, value in trial.parameters["algorithm_name"].items() if name != "_name"}
    told = {name: search.get(name) for name in ("compression_rate", "lr_factor", "start_from", "seed", "epochs")}
    return {
        "algorithm": trial.parameters["algorithm_name"]["_name"],
        **{name: value for name, value in told.items() if value is not None},
        **chosen,
    }


def named(trial: OpenTrial) -> str:
    """A short name: the algorithm and the rate."""
    found = choices(trial)
    rate = found.get("compression_rate")
    return str(found["algorithm"]) if rate is None else f"{found['algorithm']}-{rate:g}"
