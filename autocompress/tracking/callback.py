"""What can be told of a search while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocompress.records import TrialRecord
from autocompress.search_space import requested_rate
from autocompress.store import PendingTrial

if TYPE_CHECKING:
    from autocompress.result import CompressionResult


class Callback:
    """Told of a search, in the process that launched it, by a thread of its own; override what you need.

    A callback that raises is reported once and not called again; the search goes on. After a resume only what is new is
    told.
    """

    def on_epoch_end(self, trial: PendingTrial, epoch: Mapping[str, Any]) -> None:
        """A trial was evaluated.

        Args:
            trial: its key, the parameters it was given, and what the rule proposed.
            epoch: `epoch` (from 1; 0 before the first), `accuracy` in the evaluator's unit, `accuracy_margin`.
        """

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial has ended, after all of its epochs were told."""

    def on_search_end(self, result: CompressionResult) -> None:
        """The search has ended by itself, and its best model has been verified; or nothing was within the budget."""

    def close(self) -> None:
        """There is no more to tell, whether the search has ended or was stopped."""


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
    """The numbers of a trial that it has."""
    found = {name: getattr(record, name) for name in _FIGURES}
    return {
        **{name: float(value) for name, value in found.items() if value is not None},
        "feasible": float(record.feasible),
    }


def run_parameters(trial: PendingTrial) -> dict[str, Any]:
    """What a trial was asked to do."""
    search = trial.parameters.get("search") or {}
    chosen = {name: value for name, value in trial.parameters["algorithm_name"].items() if name != "_name"}
    told = {name: search.get(name) for name in ("lr_factor", "start_from", "seed", "epochs")}
    return {
        "algorithm": trial.parameters["algorithm_name"]["_name"],
        **({} if (rate := requested_rate(trial.parameters)) is None else {"requested_rate": rate}),
        **{name: value for name, value in told.items() if value is not None},
        **chosen,
    }


def run_name(trial: PendingTrial) -> str:
    """A short name: the algorithm and the rate."""
    found = run_parameters(trial)
    rate = found.get("requested_rate")
    return str(found["algorithm"]) if rate is None else f"{found['algorithm']}-{rate:g}"
