"""The running trials of an NNI experiment: what both kinds of tuner share."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from autocompress.engines.hope import require_hope, told_loss
from autocompress.engines.nni.machines import Machines
from autocompress.records import Proposal, TrialRecord
from autocompress.store import Ledger, OpenTrial, told_killed
from autocompress.store.space import require_space
from autocompress.trial.key import trial_key

_logger = logging.getLogger("nni.autocompress")
_SECRET_PATH = re.compile(r"/[0-9a-f]{32}(?=/)")
"""Of NNI's page, in the address that a trial could not reach; what is noted here, others may read."""


class RunningTrials:
    """Which of NNI's parameter ids is which trial, and the way of their results into the ledger.

    Final metrics and ends of trials arrive on different threads in either order, so whoever uses this holds `lock`.

    Args:
        ledger: the experiment's records.
        fingerprint: hash of the module's source text.
        threshold: the worst tolerable accuracy.
        finish: called once when there is nothing left to try.
        machines: where trials run; here by default.
    """

    def __init__(
        self,
        ledger: Ledger,
        fingerprint: str,
        threshold: float,
        finish: Callable[[], None],
        machines: Machines | None = None,
    ) -> None:
        self.ledger = ledger
        self._machines = machines or Machines(ledger.directory)
        self.lock = threading.RLock()
        self._fingerprint = fingerprint
        self._threshold = threshold
        self._finish = finish
        self._running: dict[int, str] = {}
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
        """A trial is about to run; it is in the journal before NNI hears of it."""
        key = self.key(parameters)
        if not self._decided(key):
            self.ledger.propose(OpenTrial(key, parameters, proposal))
        if (start := parameters["search"].get("start_from")) is not None:
            self._machines.give(start)
        self._running[parameter_id] = key

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """A trial of before a resume runs again."""
        self._running[parameter_id] = self.key(parameters)

    def settle(self, parameter_id: int, *, ended: bool) -> TrialRecord | None:
        """Take the result of a trial, once.

        Args:
            parameter_id: NNI's id.
            ended: whether its process has ended, so that a missing result means that it was killed.

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
            _logger.warning("%s", told_loss(record, self.ledger.records))
        elif record is not None and record.error is not None:
            _logger.info("trial %s (%s) %s: %s", key, record.algorithm, record.state, record.error)
        require_hope(self.ledger.records, self.ledger.directory)
        return record

    def note_end(self, parameter_id: int, trial_id: str, crashed: bool) -> None:
        """A trial's process ended; if it left no record, this tells why.

        Args:
            parameter_id: NNI's.
            trial_id: NNI's.
            crashed: whether it ended with an error code: what it printed last is the reason.

        Raises:
            StoreError: the disk is full.
        """
        with self.lock:
            if crashed:
                self.note_crash(
                    parameter_id, self._written(trial_id, "trial.stderr") or self._machines.printed(trial_id)
                )
            else:
                self._kills[parameter_id] = told_killed(self._written(trial_id, "trial.signal"))

    def note_crash(self, parameter_id: int, text: str) -> None:
        """A trial's process ended with an error, and printed this.

        Raises:
            StoreError: the disk is full.
        """
        with self.lock:
            require_space(self.ledger.directory.path, text)
            text = _SECRET_PATH.sub("/...", text)
            self._crashes[parameter_id] = text or "the trial's process ended with an error and printed nothing"

    def _written(self, trial_id: str, name: str) -> str:
        files = sorted(self.ledger.directory.path.glob(f"nni/*/environments/*/trials/{trial_id}/{name}"))
        return files[-1].read_text(errors="replace").strip() if files else ""

    def close(self) -> None:
        """The experiment is being stopped: what comes in from now on are interrupted trials, not results."""
        with self.lock:
            self._closed = True

    def finish(self) -> None:
        """There is nothing left to try."""
        if not self._closed and not self._finished:
            self._finished = True
            self._finish()

    def _decided(self, key: str) -> bool:
        return any(record.key == key and record.state != "lost" for record in self.ledger.records)
