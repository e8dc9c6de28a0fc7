"""A worker of a study: runs its trials, and fails those whose worker was killed."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.engines.base import check_failures, lost_trial_message
from autocompress.engines.optuna.convert import INTERRUPTED, RECORD, set_accuracy_margin
from autocompress.engines.optuna.directory_sync import DirectorySync
from autocompress.engines.optuna.proposal_sampler import ProposalSampler, suggest, write_order
from autocompress.errors import AutoCompressError
from autocompress.plan import ExperimentPlan
from autocompress.records import Proposal, TrialRecord
from autocompress.store import PendingTrial, record_without_result
from autocompress.store.directory import require_space
from autocompress.store.ledger import WITHOUT_RESULT
from autocompress.store.locks import is_running, is_stopped, named, this_host, this_process
from autocompress.trial.child import end_orphan
from autocompress.trial.process import ProcessEnd, Starter, TrialProcess

OWNER = "autocompress:owner"
"""User attribute of a trial: the process of its worker."""

BEAT = "autocompress:beat"
"""User attribute of a trial: a number that its worker counts up."""

BEAT_SECONDS = 10.0
_SILENCE_SECONDS = 90.0


class Liveness:
    """Finds running trials whose worker is dead.

    On this machine its process has ended. On others, and where its process is stopped, its heartbeat has not changed
    for so many seconds of this process' own clock; clocks are never compared.
    """

    def __init__(self, silence: float = _SILENCE_SECONDS) -> None:
        self._silence = silence
        self._heard: dict[int, tuple[Any, float]] = {}

    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """The trials that the storage has as running and no worker runs."""
        running = [each for each in trials if each.state is TrialState.RUNNING and OWNER in each.user_attrs]
        return [trial for trial in running if not self._alive(trial)]

    def fail_dead_trials(self, study: optuna.Study) -> list[FrozenTrial]:
        """Let the dead trials of a study fail, so that they run again; all its trials afterwards."""
        trials = study.get_trials(deepcopy=False)
        dead = self.dead(trials)
        for trial in dead:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError):  # another was first
                study._storage.set_trial_user_attr(trial._trial_id, INTERRUPTED, True)
                study.tell(trial.number, state=TrialState.FAIL)
        return study.get_trials(deepcopy=False) if dead else trials

    def _alive(self, trial: FrozenTrial) -> bool:
        owner = trial.user_attrs[OWNER]
        if owner["host"] == this_host() and not (is_running(owner) and is_stopped(owner)):
            return is_running(owner)
        beat, now = trial.user_attrs.get(BEAT), time.monotonic()
        heard, since = self._heard.setdefault(trial.number, (beat, now))
        if heard != beat:
            self._heard[trial.number] = (beat, now)
            return True
        return now - since < self._silence


def owners(trials: Iterable[FrozenTrial]) -> list[str]:
    """The workers that run a trial; those of other machines count as alive."""
    trials = list(trials)
    dead = {each.number for each in Liveness().dead(trials)}
    running = [each for each in trials if each.state is TrialState.RUNNING and each.number not in dead]
    return sorted({named(each.user_attrs[OWNER]) for each in running if OWNER in each.user_attrs})


_logger = logging.getLogger("autocompress.optuna")
_POLL_SECONDS = 0.1


class Worker:
    """Runs trials of a study until there is nothing left to try.

    Args:
        study: with the sampler that chooses.
        plan: with its baseline.
        mirror: the study's directory.
        stopping: set when the search is to be stopped.
        start: how trials' processes are started.
        on_record: called with each trial that has ended.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: ExperimentPlan,
        mirror: DirectorySync,
        stopping: threading.Event,
        start: Starter,
        on_record: Callable[[TrialRecord], None] | None = None,
    ) -> None:
        self._study, self._plan, self._mirror, self._stopping = study, plan, mirror, stopping
        self._start = start
        self._on_record = on_record or (lambda _: None)
        self._liveness = Liveness()

    def run(self, allowed: Callable[[], bool]) -> None:
        """Run trials until the search has ended, is stopped, or `allowed` returns False.

        Raises:
            TrialError: nothing but failures so far: the cause is not the rate.
            StoreError: the study's directory cannot be written.
        """
        sampler = self._study.sampler
        own = sampler if isinstance(sampler, ProposalSampler) else None
        while not self._stopping.is_set():
            proposal = self._free_proposal(own) if own else None
            if not (proposal if own else self._epochs_left()) or not allowed():
                return
            self._run_trial(self._study.ask(), proposal)

    def _epochs_left(self) -> bool:
        done = self._mirror.records(self._trials())
        return sum(record.epochs for record in done) < self._plan.settings.maximal_total_epochs

    def _trials(self) -> list[FrozenTrial]:
        """All trials of the study, after the directory was updated from them."""
        trials = self._liveness.fail_dead_trials(self._study)
        check_failures(self._mirror.sync(trials).records, self._mirror.store)
        return trials

    def _free_proposal(self, sampler: ProposalSampler) -> Proposal | None:
        """The next proposal, once one is free that no other worker runs; None at the end of the search."""
        while not self._stopping.is_set():
            trials = self._trials()
            wanted = sampler.open(trials)
            if not wanted:
                return None
            if free := sampler.free(wanted, trials):
                return free[0]
            self._stopping.wait(_POLL_SECONDS)
        return None

    def _run_trial(self, trial: optuna.Trial, proposal: Proposal | None) -> None:
        try:
            pending = self._ordered(trial, proposal)
            record = self._result(pending, self._ran(trial, pending)) if pending else None
        except BaseException:
            with contextlib.suppress(AutoCompressError):  # the storage may be the cause
                self._interrupted(trial)
            raise
        if record is None:
            self._interrupted(trial)
        else:
            self._tell(trial, record)

    def _ordered(self, trial: optuna.Trial, proposal: Proposal | None) -> PendingTrial | None:
        """Write the sampler's order to the trial before it begins; None at the end of the search."""
        trial.set_user_attr(OWNER, this_process())
        sampler = self._study.sampler
        if not isinstance(sampler, ProposalSampler):
            chosen = {**suggest(trial, self._plan.space), "search": self._plan.builtin_search_fields}
            return write_order(trial, self._plan, chosen)
        while proposal is not None:
            pending = sampler.claim(self._study, trial, proposal)
            if pending is not None:
                return pending
            self._stopping.wait(random.uniform(0, _POLL_SECONDS))
            proposal = self._free_proposal(sampler)
        return None

    def _ran(self, trial: optuna.Trial, pending: PendingTrial) -> ProcessEnd:
        store, ending = self._mirror.store, threading.Event()
        self._mirror.propose(pending)
        self._mirror.fetch(pending)
        processes: list[TrialProcess] = []
        watcher = threading.Thread(target=self._watch, args=(trial, processes, ending), daemon=True)
        watcher.start()
        try:
            end_orphan(store.trial(pending.key), _logger, self._stopping.is_set)
            limit = self._plan.settings.maximal_trial_seconds
            process = TrialProcess(store, pending.key, pending.parameters, self._start, limit)
            processes.append(process)
            for result in process.results():
                self._report(trial, result, process)
            return process.wait()
        except BaseException:
            for process in processes:
                process.end()
            raise
        finally:
            ending.set()
            watcher.join()

    def _watch(self, trial: optuna.Trial, processes: list[TrialProcess], ending: threading.Event) -> None:
        """Send the heartbeat of a running trial, and interrupt its process when the search is stopped."""
        beat, due = 0, time.monotonic() + BEAT_SECONDS
        while not ending.wait(_POLL_SECONDS):
            if self._stopping.is_set() and processes:
                processes[0].end()
                return
            if time.monotonic() >= due:
                beat, due = beat + 1, time.monotonic() + BEAT_SECONDS
                with contextlib.suppress(Exception):  # the storage may be away; the next beat tells
                    trial.set_user_attr(BEAT, beat)

    def _report(self, trial: optuna.Trial, result: Mapping[str, Any], process: TrialProcess) -> None:
        trial.report(float(result["accuracy"]), int(result["epoch"]))
        # A proposal names its epochs, which are those that are left; only trials of other samplers may need an end.
        if not isinstance(self._study.sampler, ProposalSampler) and trial.should_prune():
            process.interrupt()

    def _interrupted(self, trial: optuna.Trial) -> None:
        """Let the trial fail without a result, so that it runs again."""
        trial.set_user_attr(INTERRUPTED, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def _result(self, pending: PendingTrial, end: ProcessEnd) -> TrialRecord | None:
        """The record of an ended trial; None where the whole search is being stopped."""
        record = self._mirror.store.trial(pending.key).record()
        if self._stopping.is_set() and (record is None or record.state == "stopped"):
            return None
        return record or self._without_result(pending, end)

    def _tell(self, trial: optuna.Trial, record: TrialRecord) -> None:
        self._tell_record(trial, record)
        if record.state == "lost":
            records = self._mirror.records(self._study.get_trials(deepcopy=False))
            _logger.warning("%s", lost_trial_message(record, records))
        self._on_record(record)

    def _tell_record(self, trial: optuna.Trial, record: TrialRecord) -> None:
        if record.state != "lost":
            self._mirror.give(record)
        trial.set_user_attr(RECORD, record.to_dict())
        if record.accuracy_margin is None or record.score is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        set_accuracy_margin(trial, record.accuracy_margin - record.required_margin)
        self._study.tell(trial, record.score)

    def _without_result(self, pending: PendingTrial, end: ProcessEnd) -> TrialRecord:
        if end.killed is not None:
            return record_without_result(pending, None, end.killed)
        require_space(self._mirror.store.path, end.crash or "")
        crash = end.crash or WITHOUT_RESULT
        self._mirror.store.trial(pending.key).write_traceback(crash)
        return record_without_result(pending, crash)
