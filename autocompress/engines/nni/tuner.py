"""The running trials of an NNI experiment, and the adaptive tuner."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.tuner import Tuner

from autocompress.engines.base import check_failures, lost_trial_message
from autocompress.engines.nni.manager import Machines
from autocompress.records import Proposal, TrialRecord
from autocompress.search import SearchRule, proposals
from autocompress.store import Ledger, PendingTrial, killed_message
from autocompress.store.directory import read_end, require_space
from autocompress.store.ledger import WITHOUT_RESULT
from autocompress.trial.process import overdue_message
from autocompress.trial.spec import trial_key

_logger = logging.getLogger("nni.autocompress")
_SECRET_PATH = re.compile(r"/[0-9a-f]{32}(?=/)")
"""Of NNI's page, in the address that a trial could not reach; what is noted here, others may read."""


class RunningTrials:
    """Maps NNI's parameter ids to trials, and moves their results into the ledger.

    Final metrics and ends of trials arrive on different threads in either order, so callers hold `lock`. `finish` is
    called once when there is nothing left to try. NNI ends a trial that its limit of `seconds` has not ended.
    """

    def __init__(
        self,
        ledger: Ledger,
        fingerprint: str,
        threshold: float,
        finish: Callable[[], None],
        machines: Machines | None = None,
        seconds: float | None = None,
    ) -> None:
        self.ledger, self._seconds = ledger, seconds
        self._machines = machines or Machines(ledger.directory)
        self.lock = threading.RLock()
        self._fingerprint = fingerprint
        self._threshold = threshold
        self._finish = finish
        self._running: dict[int, str] = {}
        self._began: dict[int, float] = {}
        self._crashes: dict[int, str] = {}
        self._kills: dict[int, str] = {}
        self._closed = False
        self._finished = False

    @property
    def keys(self) -> set[str]:
        """Keys of the trials that run."""
        return set(self._running.values())

    def key(self, parameters: Mapping[str, Any]) -> str:
        """The key of a trial with these parameters."""
        return trial_key(self._fingerprint, parameters, self._threshold)

    def begin(self, parameter_id: int, parameters: dict[str, Any], proposal: Proposal | None = None) -> None:
        """A trial is about to run; it is written to the journal before NNI receives it."""
        key = self.key(parameters)
        if not self._decided(key):
            self.ledger.propose(PendingTrial(key, parameters, proposal))
        if (start := parameters["search"].get("start_from")) is not None:
            self._machines.push_checkpoint(start)
        self._running[parameter_id], self._began[parameter_id] = key, time.monotonic()

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """Take over a trial that runs again after a resume."""
        self._running[parameter_id], self._began[parameter_id] = self.key(parameters), time.monotonic()

    def settle(self, parameter_id: int, *, ended: bool) -> TrialRecord | None:
        """Take the result of a trial, once.

        Returns:
            the new record; None when the trial is not known, has been settled, or has no result yet.

        Raises:
            TrialError: nothing but failures so far: the cause is not the rate.
        """
        key = self._running.get(parameter_id)
        if key is None or self._closed:
            return None
        if ended:
            self._machines.fetch(key)
        record = self.ledger.settle(key)
        if record is None and not ended:
            return None
        del self._running[parameter_id]
        if record is None and key in self.ledger.open:
            record = self.ledger.close(key, self._crashes.get(parameter_id), self._kills.get(parameter_id))
        if record is not None and record.state == "lost":
            _logger.warning("%s", lost_trial_message(record, self.ledger.records))
        elif record is not None and record.error is not None:
            _logger.info("trial %s (%s) %s: %s", key, record.algorithm, record.state, record.error)
        check_failures(self.ledger.records, self.ledger.directory)
        return record

    def note_end(self, parameter_id: int, trial_id: str, status: str) -> None:
        """Note how a trial's process ended, in case it left no record.

        Args:
            parameter_id: NNI's.
            trial_id: NNI's.
            status: NNI's, such as SUCCEEDED: the exit code was 0; one that was killed has none.
        """
        with self.lock:
            if status == "FAILED":
                self.note_crash(
                    parameter_id, self._written(trial_id, "trial.stderr") or self._machines.stderr_of(trial_id)
                )
            elif status == "SUCCEEDED":
                self._crashes[parameter_id] = WITHOUT_RESULT
            else:
                signal = killed_message(self._written(trial_id, "trial.signal"))
                late = self._is_overdue(parameter_id)
                self.note_kill(parameter_id, overdue_message(self._seconds) if late else signal)

    def _is_overdue(self, parameter_id: int) -> bool:
        """Whether a trial that is killed now was by NNI, as its limit did not end it."""
        began = self._began.get(parameter_id)
        return self._seconds is not None and began is not None and time.monotonic() - began > self._seconds

    def note_kill(self, parameter_id: int, message: str) -> None:
        """Note that a trial's process was killed."""
        with self.lock:
            self._kills[parameter_id] = message

    def note_crash(self, parameter_id: int, text: str) -> None:
        """Note the output of a trial's process that ended with an error."""
        with self.lock:
            require_space(self.ledger.directory.path, text)
            text = _SECRET_PATH.sub("/...", text)
            self._crashes[parameter_id] = text or "the trial's process ended with an error and printed nothing"

    def _written(self, trial_id: str, name: str) -> str:
        files = sorted(self.ledger.directory.path.glob(f"nni/*/environments/*/trials/{trial_id}/{name}"))
        return read_end(files[-1]).strip() if files else ""

    def close(self) -> None:
        """The experiment is being stopped: results from now on are of interrupted trials."""
        with self.lock:
            self._closed = True

    def finish(self) -> None:
        """There is nothing left to try."""
        if not self._closed and not self._finished:
            self._finished = True
            self._finish()

    def _decided(self, key: str) -> bool:
        return any(record.key == key and record.state != "lost" for record in self.ledger.records)


_SendTrial = Callable[[int, dict[str, Any]], None]


class DeferredParameters(list[dict[str, Any]]):
    """As long as NNI requested, and empty when iterated: the trials are sent later, one by one.

    A shorter list would end the experiment.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length


class AdaptiveCompression(Tuner):  # type: ignore[misc]  # NNI is not typed
    """NNI tuner that proposes what the searches propose, as far as NNI has free workers."""

    def __init__(
        self,
        searches: Sequence[SearchRule],
        trial_parameters: Callable[[Proposal], dict[str, Any]],
        trials: RunningTrials,
    ) -> None:
        self._searches = searches
        self._trial_parameters = trial_parameters
        self._trials = trials
        self._free_ids: list[int] = []
        self._send: _SendTrial | None = None

    def generate_multiple_parameters(
        self, parameter_id_list: list[int], st_callback: _SendTrial | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """NNI has a free worker for each id, and requests trials for it only once."""
        with self._trials.lock:
            self._free_ids.extend(parameter_id_list)
            self._send = st_callback
            self._issue()
        return DeferredParameters(len(parameter_id_list))

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **_: Any) -> None:  # noqa: ARG002
        """A final metric has arrived; the trial's record is on disk."""
        self._settle(parameter_id, ended=False)

    def trial_end(self, parameter_id: int, success: bool, **_: Any) -> None:  # noqa: ARG002 - the record has it
        """A trial's process has ended."""
        self._settle(parameter_id, ended=True)

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """Take over a trial that runs again after a resume."""
        with self._trials.lock:
            self._trials.adopt(parameter_id, parameters)

    def import_data(self, data: Any) -> None:
        """Ignored: the journal has the finished trials."""

    def update_search_space(self, search_space: Any) -> None:
        """Ignored: the searches were created from it."""

    def _settle(self, parameter_id: int, *, ended: bool) -> None:
        with self._trials.lock:
            if self._trials.settle(parameter_id, ended=ended) is not None:
                self._issue()

    def _issue(self) -> None:
        wanted = proposals(self._searches, self._trials.ledger.records)
        if not wanted:
            self._trials.finish()
        for proposal in wanted:
            parameters = self._trial_parameters(proposal)
            if self._trials.key(parameters) in self._trials.keys:
                continue
            if not self._free_ids or self._send is None:
                return
            parameter_id = self._free_ids.pop(0)
            self._trials.begin(parameter_id, parameters, proposal)
            self._send(parameter_id, parameters)
