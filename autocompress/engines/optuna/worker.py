"""One worker of a study: asks for a trial, runs it in a process of its own, tells what came of it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.engines.hope import require_hope
from autocompress.engines.optuna.constraints import set_accuracy_budget
from autocompress.engines.optuna.liveness import BEAT, BEAT_SECONDS, OWNER, Liveness, this_process
from autocompress.engines.optuna.mirror import Mirror
from autocompress.engines.optuna.proposing import ProposalSampler, write_order
from autocompress.engines.optuna.records import INTERRUPTED, RECORD, open_trial, records_of
from autocompress.engines.optuna.suggesting import suggest
from autocompress.engines.plan import ExperimentPlan
from autocompress.errors import AutoCompressError, EngineError
from autocompress.records import TrialRecord
from autocompress.store import OpenTrial, record_of_end
from autocompress.trial.process import End, TrialProcess

_logger = logging.getLogger("autocompress.optuna")
_POLL_SECONDS = 0.5


class Worker:
    """Runs trials of a study until there is nothing left to try.

    Args:
        study: with the sampler that chooses.
        plan: with its baseline.
        mirror: the study's directory.
        stopping: set when the search is to be stopped.
        on_record: told of each trial that has ended.
    """

    def __init__(
        self,
        study: optuna.Study,
        plan: ExperimentPlan,
        mirror: Mirror,
        stopping: threading.Event,
        on_record: Callable[[TrialRecord], None] | None = None,
    ) -> None:
        self._study, self._plan, self._mirror, self._stopping = study, plan, mirror, stopping
        self._on_record = on_record or (lambda _: None)
        self._liveness = Liveness()

    def run(self, allowed: Callable[[], bool]) -> None:
        """Go on until the search is finished, is being stopped, or `allowed` says that there were enough trials.

        Raises:
            TrialError: nothing but failures so far: the cause is not the rate.
            StoreError: the study's directory cannot be written.
        """
        while not self._stopping.is_set() and self._wait_for_work() and allowed():
            self._run_trial(self._study.ask())

    def _wait_for_work(self) -> bool:
        """Wait while all that the search asks for is being run by others; whether there is something to run."""
        sampler = self._study.sampler
        while not self._stopping.is_set():
            self._liveness.bury(self._study)
            trials = self._study.get_trials(deepcopy=False)
            if not isinstance(sampler, ProposalSampler):
                return sum(record.epochs for record in records_of(trials)) < self._plan.settings.maximal_total_epochs
            wanted = sampler.open(trials)
            if not wanted:
                return False
            if sampler.free(wanted, trials):
                return True
            self._stopping.wait(_POLL_SECONDS)
        return False

    def _run_trial(self, trial: optuna.Trial) -> None:
        try:
            asked = self._ordered(trial)
            end = self._ran(trial, asked)
        except BaseException:
            with contextlib.suppress(AutoCompressError):  # the storage may be the cause
                self._interrupted(trial)
            raise
        self._tell(trial, asked, end)

    def _ordered(self, trial: optuna.Trial) -> OpenTrial:
        """What the study's sampler wants of a trial; it is on the trial before it begins."""
        trial.set_user_attr(OWNER, this_process())
        sampler = self._study.sampler
        if isinstance(sampler, ProposalSampler):
            sampler.suggest(trial)
        else:
            chosen = {**suggest(trial, self._plan.space), "search": self._plan.common}
            write_order(self._study, _frozen(self._study, trial), self._plan, chosen)
        asked = open_trial(_frozen(self._study, trial))
        if asked is None:
            raise EngineError(f"trial {trial.number} must say what it is to do; it does not")
        return asked

    def _ran(self, trial: optuna.Trial, asked: OpenTrial) -> End:
        self._mirror.sync(self._study)
        self._mirror.fetch(asked)
        process = TrialProcess(self._mirror.store, asked.key, asked.parameters)
        ending = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(trial, process, ending), daemon=True)
        watcher.start()
        try:
            for result in process.results():
                self._report(trial, result, process)
            return process.wait()
        except BaseException:
            process.interrupt()
            process.wait()
            raise
        finally:
            ending.set()
            watcher.join()

    def _watch(self, trial: optuna.Trial, process: TrialProcess, ending: threading.Event) -> None:
        """Tell that it is being run, and interrupt it when the search is being stopped."""
        beat, due = 0, time.monotonic() + BEAT_SECONDS
        while not ending.wait(_POLL_SECONDS / 5):
            if self._stopping.is_set():
                process.interrupt()
                return
            if time.monotonic() >= due:
                beat, due = beat + 1, time.monotonic() + BEAT_SECONDS
                with contextlib.suppress(Exception):  # the storage may be away; the next beat tells
                    trial.set_user_attr(BEAT, beat)

    def _report(self, trial: optuna.Trial, result: Mapping[str, Any], process: TrialProcess) -> None:
        trial.report(float(result["accuracy"]), int(result["epoch"]))
        if trial.should_prune():
            process.interrupt()

    def _interrupted(self, trial: optuna.Trial) -> None:
        """It is no result: the trial will run again."""
        trial.set_user_attr(INTERRUPTED, True)
        self._study.tell(trial, state=TrialState.FAIL)

    def _tell(self, trial: optuna.Trial, asked: OpenTrial, end: End) -> None:
        record = self._mirror.store.trial(asked.key).record()
        if self._stopping.is_set() and (record is None or record.state == "stopped"):
            self._interrupted(trial)
            return
        self._tell_record(trial, record or self._without_result(asked, end))
        ledger = self._mirror.sync(self._study)
        self._on_record(ledger.records[-1])
        require_hope(ledger.records, self._mirror.store)

    def _tell_record(self, trial: optuna.Trial, record: TrialRecord) -> None:
        if record.state != "lost":
            self._mirror.give(record)
        trial.set_user_attr(RECORD, record.to_dict())
        if record.accuracy_budget is None or record.score is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        set_accuracy_budget(trial, record.accuracy_budget)
        self._study.tell(trial, record.score)

    def _without_result(self, asked: OpenTrial, end: End) -> TrialRecord:
        if end.killed is not None:
            _logger.warning("%s at %s: %s", asked.key, asked.proposal and asked.proposal.compression_rate, end.killed)
            return record_of_end(asked, None, end.killed)
        crash = end.crash or "the trial's process ended without a result"
        self._mirror.store.trial(asked.key).write_traceback(crash)
        return record_of_end(asked, crash)


def _frozen(study: optuna.Study, trial: optuna.Trial) -> FrozenTrial:
    return study._storage.get_trial(trial._trial_id)
