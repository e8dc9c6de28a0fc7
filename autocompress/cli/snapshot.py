"""What a search has come to so far, read from its directory, and which process runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from autocompress.engines.start import longest_text
from autocompress.errors import ConfigError, StoreError
from autocompress.plan import ExperimentPlan
from autocompress.records import Proposal, TrialRecord
from autocompress.registry import MIX
from autocompress.search import best
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial, Verdict


def holder(store: ExperimentDirectory) -> int | None:
    """Id of the process that holds the experiment's lock; None where no process does.

    The lock itself is only touched while the process whose id it names is alive, so that looking never keeps anyone
    from taking it.
    """
    try:
        with (store.path / ".lock").open() as file:
            process = int(file.read())
            return process if psutil.pid_exists(process) and _is_locked(file.fileno()) else None
    except (OSError, ValueError):
        return None


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


@dataclass(frozen=True)
class RunningTrial:
    """A trial that has been proposed and has no result yet.

    Attributes:
        algorithm: name of the algorithm.
        rate: the requested rate; None where the algorithm has none or a built-in tuner chose several.
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
        module: name of the user's class.
        uncompressed: accuracy of the uncompressed model.
        threshold: the worst tolerable accuracy.
        higher_is_better: direction of the metric.
        records: finished trials in order.
        running: trials without a result.
        best: the best feasible one so far.
        verdict: what the best one evaluated to when loaded afresh; None before the end.
        verdicts: of all trials whose model was loaded afresh, by key.
        ended: whether there is nothing left to try.
        waiting: what the rule would try next; empty where a built-in tuner decides, or the algorithm is not known here.
        longest: how long the search takes at most, in words; None where no preflight has timed it.
    """

    module: str
    uncompressed: float
    threshold: float
    higher_is_better: bool
    records: list[TrialRecord]
    running: list[RunningTrial]
    best: TrialRecord | None
    verdict: Verdict | None
    verdicts: Mapping[str, Verdict]
    ended: bool
    waiting: list[Proposal]
    longest: str | None = None

    @property
    def epochs(self) -> int:
        """Epochs of fine-tuning done by finished trials."""
        return sum(record.epochs for record in self.records)

    @property
    def seconds(self) -> float:
        """Time that finished trials took."""
        return sum(record.seconds for record in self.records)


class Reader:
    """Looks at an experiment again and again; what has not changed is not read again.

    Args:
        store: the experiment's directory; it need not exist yet.
        trials: the most that are run, where the directory does not tell; None: not known.
    """

    def __init__(self, store: ExperimentDirectory, trials: int | None = None) -> None:
        self._store, self._trials = store, trials
        self._plan: ExperimentPlan | None = None
        self._longest: str | None = None
        self._ledger: Ledger | None = None
        self._stamp: tuple[int, int] | None = None

    def take(self) -> Snapshot | None:
        """The experiment now; None while its baseline has not been measured.

        Raises:
            StoreError: its files are damaged.
        """
        if self._plan is None:
            if not self._store.exists():
                return None
            self._plan = ExperimentPlan.read(self._store)
            with contextlib.suppress(ConfigError):  # as in `_waiting`
                self._longest = longest_text(self._plan, self._plan.maximal_trials or self._trials)
        stamp = self._journal_stamp()
        if self._ledger is None or stamp != self._stamp:
            self._ledger, self._stamp = self._read_on(), stamp
        return dataclasses.replace(_snapshot(self._plan, self._ledger), longest=self._longest)

    def _read_on(self) -> Ledger:
        """What is new only; all of it where that fails, as a journal may be cut when it is repaired."""
        known, self._ledger = self._ledger, None
        if known is not None:
            with contextlib.suppress(StoreError):
                known.refresh()
                return known
        return Ledger(self._store)

    def _journal_stamp(self) -> tuple[int, int] | None:
        try:
            status = self._store.journal.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size


def take(store: ExperimentDirectory) -> Snapshot | None:
    """Look at an experiment once; None while its baseline has not been measured."""
    return Reader(store).take()


def _snapshot(plan: ExperimentPlan, ledger: Ledger) -> Snapshot:
    found = best(ledger.not_disproved)
    waiting = _waiting(plan, ledger)
    return Snapshot(
        module=plan.model_name,
        uncompressed=plan.measured.accuracy,
        threshold=plan.threshold,
        higher_is_better=plan.measured.higher_is_better,
        records=ledger.records,
        running=[_running(ledger.directory, trial) for trial in ledger.open.values()],
        best=found,
        verdict=ledger.verdicts.get(found.key) if found else None,
        verdicts=ledger.verdicts,
        ended=_ended(plan, ledger, waiting),
        waiting=waiting or [],
    )


def _waiting(plan: ExperimentPlan, ledger: Ledger) -> list[Proposal] | None:
    """What our own search tries next; None where only the module's file, which is not run, can tell."""
    if not plan.ends_by_itself:
        return None
    try:
        return plan.proposals(ledger.records)
    except ConfigError:  # an algorithm that the file registers
        return None


def _ended(plan: ExperimentPlan, ledger: Ledger, waiting: list[Proposal] | None) -> bool:
    if ledger.open:
        return False
    limit = plan.maximal_trials
    used_up = limit is not None and len(ledger.records) >= limit
    return bool(ledger.verdicts) or used_up or waiting == []


def _running(store: ExperimentDirectory, trial: PendingTrial) -> RunningTrial:
    search: dict[str, Any] = trial.parameters.get("search") or {}
    chosen: dict[str, Any] = trial.parameters["algorithm_name"]
    curve = store.trial(trial.key).curve()
    last = curve[-1] if curve else {}
    rate = requested_rate(trial.parameters)
    name, epochs = chosen["_name"], search.get("epochs")
    second = search.get("second_chance_epochs", 0) if last.get("epoch", 0) > (epochs or 0) else 0
    most = None if epochs is None else (epochs + second) * (name.count(MIX) + 1)
    return RunningTrial(name, rate, last.get("epoch", 0), most, last.get("accuracy"))
