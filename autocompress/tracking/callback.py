"""Callbacks that are notified of a search while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocompress.records import TrialRecord
from autocompress.search_space import requested_rate
from autocompress.store import PendingTrial

if TYPE_CHECKING:
    from autocompress.result import CompressionResult


class Callback:
    """Notified of a search by a thread of the process that launched it; override the methods you need.

    A callback that raises is reported once and not called again; the search continues. After a resume only new events
    are reported.
    """

    def on_epoch_end(self, trial: PendingTrial, epoch: Mapping[str, Any]) -> None:
        """Called when a trial has been evaluated.

        Args:
            trial: its key, the parameters it was given, and what the rule proposed.
            epoch: `epoch` (from 1; 0 before the first), `accuracy` in the evaluator's unit, `accuracy_margin`.
        """

    def on_trial_end(self, record: TrialRecord) -> None:
        """Called when a trial has ended, after all of its epochs."""

    def on_search_end(self, result: CompressionResult) -> None:
        """Called when the search has ended by itself and its best model, if any, is verified."""

    def close(self) -> None:
        """Called last, whether the search has ended or was stopped."""


_FIGURES = (
    "requested_rate",
    "achieved_rate",
    "accuracy",
    "accuracy_margin",
    "score",
    "parameters_removed",
    "macs_removed",
    "size_removed",
    "latency_removed",
    "epochs",
    "seconds",
)


def metrics(record: TrialRecord) -> dict[str, float]:
    """The numbers of a trial's record."""
    found = {name: getattr(record, name) for name in _FIGURES}
    return {
        **{name: float(value) for name, value in found.items() if value is not None},
        "feasible": float(record.feasible),
    }


def run_parameters(trial: PendingTrial) -> dict[str, Any]:
    """The parameters of a trial, as trackers log them."""
    search = trial.parameters.get("search") or {}
    chosen = {name: value for name, value in trial.parameters["algorithm_name"].items() if name != "_name"}
    given = {name: search.get(name) for name in ("lr_factor", "start_from", "seed", "epochs")}
    return {
        "algorithm": trial.parameters["algorithm_name"]["_name"],
        **({} if (rate := requested_rate(trial.parameters)) is None else {"requested_rate": rate}),
        **{name: value for name, value in given.items() if value is not None},
        **chosen,
    }


def run_name(trial: PendingTrial) -> str:
    """The algorithm and the requested rate."""
    found = run_parameters(trial)
    rate = found.get("requested_rate")
    return str(found["algorithm"]) if rate is None else f"{found['algorithm']}-{rate:g}"
