"""Writing a run down while the next rate is trained already.

All lines of the journal are written by one thread in their order. A run that is killed before a line was written trains
that rate again, with the same answer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from autocompress.engines.inprocess.scalars import Scalars
from autocompress.records import Proposal, TrialRecord
from autocompress.store import ExperimentDirectory, Ledger, OpenTrial


@dataclass(frozen=True)
class Outcome:
    """A trial that has been trained.

    Attributes:
        record: all that the rule needs to know.
        written: saves the model, measures it, and gives the whole record.
    """

    record: TrialRecord
    written: Callable[[], TrialRecord]


class Writing:
    """Notes proposals and outcomes; a context manager that ends when all is on disk.

    Args:
        store: the run's directory, whose journal is read.
        scalars: told of what is noted.
        leads: whether this process writes; others only remember.

    Attributes:
        records: of all trials so far, of the last ones only what the rule needs.
    """

    def __init__(self, store: ExperimentDirectory, scalars: Scalars, *, leads: bool = True) -> None:
        self._ledger, self._scalars, self._leads = Ledger(store), scalars, leads
        self.records: list[TrialRecord] = list(self._ledger.records)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="autocompress-writing")
        self._pending: list[Future[Any]] = []
        self._quiet = threading.Event()

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.release()
        self._pool.shutdown(wait=True)
        if kind is None:
            self.wait()

    def propose(self, trial: OpenTrial, proposal: Proposal) -> None:
        """Note that a trial is about to run; nothing is written before `release`."""
        self._raise_failures()
        self._quiet.clear()
        if not self._leads:
            return
        epochs = sum(record.epochs for record in self.records)
        self._pending.append(self._pool.submit(self._ledger.propose, trial))
        self._pending.append(self._pool.submit(self._scalars.on_proposal, proposal, epochs))

    def add(self, outcome: Outcome) -> None:
        """Note what came of it."""
        self.records.append(outcome.record)
        if not self._leads:
            return
        epochs = sum(record.epochs for record in self.records)
        self._pending.append(self._pool.submit(self._write, outcome, epochs))

    def release(self) -> None:
        """Let everything be written now: the processor is busy with training, not with Python."""
        self._quiet.set()

    def wait(self) -> None:
        """Return when all is on disk.

        Raises:
            StoreError: something cannot be written.
        """
        self.release()
        for future in self._pending:
            future.result()
        self._pending.clear()

    def _write(self, outcome: Outcome, epochs: int) -> None:
        self._quiet.wait()
        record = outcome.written()
        self._ledger.add(record)
        self._scalars.on_record(record, epochs)

    def _raise_failures(self) -> None:
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if future not in done]
        for future in done:
            future.result()
