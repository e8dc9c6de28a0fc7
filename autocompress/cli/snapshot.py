"""What can be read of an experiment at this moment, from its directory alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autocompress.engines.plan import ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.search import best
from autocompress.store import ExperimentDirectory, Ledger, OpenTrial


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has been proposed and has no result yet.

    Attributes:
        algorithm: name of the algorithm.
        rate: the requested rate; None where the algorithm has none or a stock tuner chose several.
        epoch: epochs evaluated so far.
        epochs: the most epochs; None where the module decides.
        accuracy: at the last evaluation; None before the first.
    """

    algorithm: str
    rate: float | None
    epoch: int
    epochs: int | None
    accuracy: float | None


@dataclass(frozen=True)
class Snapshot:
    """An experiment at one moment.

    Attributes:
        uncompressed: accuracy of the uncompressed model.
        threshold: the worst tolerable accuracy.
        records: finished trials in order.
        running: trials without a result.
        best: the best feasible one so far.
    """

    uncompressed: float
    threshold: float
    records: list[TrialRecord]
    running: list[RunningTrial]
    best: TrialRecord | None

    @property
    def epochs(self) -> int:
        """Epochs of fine-tuning done by finished trials."""
        return sum(record.epochs for record in self.records)


def take(store: ExperimentDirectory) -> Snapshot | None:
    """Look at an experiment; None while its baseline has not been measured."""
    if not store.exists():
        return None
    plan = ExperimentPlan.from_dict(store.settings())
    ledger = Ledger(store)
    running = [_running(store, trial) for trial in ledger.open.values()]
    return Snapshot(plan.measured.accuracy, plan.threshold, ledger.records, running, best(ledger.records))


def _running(store: ExperimentDirectory, trial: OpenTrial) -> RunningTrial:
    search: dict[str, Any] = trial.parameters.get("search") or {}
    chosen: dict[str, Any] = trial.parameters["algorithm_name"]
    sparsities = [value for name, value in chosen.items() if name.endswith("::sparsity")]
    rate = search.get("compression_rate", sparsities[0] if len(sparsities) == 1 else None)
    curve = store.trial(trial.key).curve()
    last = curve[-1] if curve else {}
    return RunningTrial(chosen["_name"], rate, last.get("epoch", 0), search.get("epochs"), last.get("accuracy"))
