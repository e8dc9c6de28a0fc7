"""What a loop writes while it trains: journal, checkpoints, TensorBoard scalars, report; and its statistics."""

from __future__ import annotations

import atexit
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from autocompress.budget import accuracy_margin
from autocompress.errors import StoreError, command
from autocompress.records import Proposal, TrialRecord
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial, Verdict
from autocompress.tracking.callback import metrics


class Scalars:
    """Writes TensorBoard scalars under NNCF's tags; steps are epochs of the whole search.

    Args:
        writer: TensorBoard's `SummaryWriter`, or an object with its `add_scalar`; None: nothing is written.
        threshold: the worst tolerable accuracy.
        higher_is_better: direction of the accuracy.
    """

    def __init__(self, writer: Any, threshold: float, higher_is_better: bool) -> None:
        self._writer = writer
        self._threshold, self._higher = threshold, higher_is_better

    def on_proposal(self, proposal: Proposal, epochs: int) -> None:
        """A rate is about to be tried."""
        if proposal.requested_rate is not None:
            self._add("compression/accuracy_aware/target_compression_rate", proposal.requested_rate, epochs)
            self._add("compression/accuracy_aware/compression_rate_step", proposal.step, epochs)

    def on_epoch(self, epochs: int, accuracy: float, budget: float) -> None:
        """The model was validated."""
        self._add("val/accuracy_aware/metric_value", accuracy, epochs)
        self._add("val/accuracy_aware/accuracy_budget", budget, epochs)

    def on_record(self, record: TrialRecord, epochs: int) -> None:
        """A rate was left."""
        for name, value in metrics(record).items():
            self._add(f"compression/statistics/{name}", value, epochs)

    def _add(self, tag: str, value: float, step: int) -> None:
        if self._writer is not None:
            self._writer.add_scalar(tag, value, step)


class Report:
    """`report.html` and the plots, written by a process that Python's exit waits for."""

    def __init__(self, store: ExperimentDirectory) -> None:
        self._path = store.path / "report.html"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autocompress.cli", "report", str(store.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,  # a spawn instead of a fork, which takes longer the more memory there is
        )
        atexit.register(self._process.wait)

    def wait(self) -> Path:
        """The page, once it is written.

        Raises:
            StoreError: it cannot be written.
        """
        code = self._process.wait()
        if code != 0 or not self._path.exists():
            again = command("autocompress", "report", self._path.parent)
            raise StoreError(f"{self._path} could not be written; run `{again}` for the reason")
        return self._path


class Outcome(Protocol):
    """A trial that has been trained."""

    @property
    def record(self) -> TrialRecord:
        """The fields that the search needs."""
        ...

    def save_model(self) -> None:
        """Write the checkpoint."""

    def save_rest(self) -> TrialRecord:
        """Write everything else, and measure: the complete record, which is written too."""
        ...


class Recorder:
    """Writes proposals and outcomes in a thread; a context manager that ends when all is on disk.

    Args:
        store: the run's directory, whose journal is read.
        scalars: receive the same.
        leads: whether this process writes; others keep records in memory only.

    Attributes:
        records: of all trials so far; one that is not written yet has only the fields that the search needs.
    """

    def __init__(self, store: ExperimentDirectory, scalars: Scalars, *, leads: bool = True) -> None:
        self._store, self._ledger, self._scalars, self._leads = store, Ledger(store), scalars, leads
        self.records: list[TrialRecord] = list(self._ledger.records)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="autocompress-recorder")
        self._pending: list[Future[Any]] = []
        self._saved: dict[str, Future[Any]] = {}
        self._gate = threading.Condition()
        self._open, self._urgent = False, ""

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.release()
        self._pool.shutdown(wait=True)
        if kind is None:
            self.wait()

    @property
    def epochs(self) -> int:
        """Of all trials so far."""
        return sum(record.epochs for record in self.records)

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """Verdicts of earlier runs on reloaded checkpoints, by the trials' keys."""
        return self._ledger.verdicts

    def propose(self, trial: PendingTrial, proposal: Proposal) -> None:
        """Record that a trial is about to run; nothing is written before `release`."""
        self._raise_failures()
        self.hold()
        self._submit(self._write_proposal, trial, proposal, self.epochs)

    def add_epoch(self, key: str, result: dict[str, Any]) -> None:
        """Record an evaluation of the running trial, as its learning curve has it."""
        self._submit(self._write_epoch, key, result, self.epochs + result["epoch"])

    def add(self, outcome: Outcome) -> None:
        """Record the outcome of the running trial."""
        self.records.append(outcome.record)
        saved = self._submit(self._save_model, outcome)
        if saved is not None:
            self._saved[outcome.record.key] = saved
        self._submit(self._save_rest, outcome, saved, len(self.records) - 1, self.epochs)

    def add_verdict(self, key: str, verdict: Verdict) -> None:
        """Record the accuracy of a reloaded checkpoint."""
        self._submit(self._ledger.add_verdict, key, verdict)

    def release(self) -> None:
        """Allow everything to be written now, while training keeps the interpreter free."""
        self._set(is_open=True)

    def hold(self) -> None:
        """Queue proposals and models from now on, and everything after them."""
        self._set(is_open=False)

    def wait_for_model(self, key: str) -> None:
        """Return when the checkpoint of a trial is written; the rest of the queue stays on hold.

        Raises:
            StoreError: it cannot be written.
        """
        if (saved := self._saved.get(key)) is not None:
            self._set(is_open=self._open, urgent=key)
            saved.result()

    def wait(self) -> None:
        """Return when everything is on disk.

        Raises:
            StoreError: something cannot be written.
        """
        self.release()
        for future in self._pending:
            future.result()
        self._pending.clear()

    def _set(self, *, is_open: bool, urgent: str = "") -> None:
        with self._gate:
            self._open, self._urgent = is_open, urgent
            self._gate.notify()

    def _pass(self) -> None:
        with self._gate:
            self._gate.wait_for(lambda: self._open or self._urgent)

    def _write_proposal(self, trial: PendingTrial, proposal: Proposal, epochs: int) -> None:
        self._pass()
        self._ledger.propose(trial)
        self._scalars.on_proposal(proposal, epochs)

    def _save_model(self, outcome: Outcome) -> None:
        self._pass()
        outcome.save_model()

    def _save_rest(self, outcome: Outcome, saved: Future[None], index: int, epochs: int) -> None:
        saved.result()  # without its model there is no record
        with self._gate:
            self._gate.wait_for(lambda: self._open or self._urgent not in ("", outcome.record.key))
        record = self.records[index] = outcome.save_rest()
        self._ledger.add(record)
        self._scalars.on_record(record, epochs)

    def _write_epoch(self, key: str, result: dict[str, Any], epochs: int) -> None:
        self._store.trial(key).append_epoch(result)
        self._scalars.on_epoch(epochs, result["accuracy"], result["accuracy_margin"])

    def _submit(self, write: Callable[..., None], *arguments: Any) -> Future[Any] | None:
        if not self._leads:
            return None
        future = self._pool.submit(write, *arguments)
        self._pending.append(future)
        return future

    def _raise_failures(self) -> None:
        done = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if future not in done]
        for future in done:
            future.result()


@dataclass(frozen=True)
class LoopStatistics:
    """The model that a loop returned, compared with the uncompressed one.

    Attributes:
        uncompressed_accuracy: as the user gave it.
        achieved_rate: measured compression rate in [0, 1).
        compressed_accuracy: of the model loaded from its checkpoint.
        absolute_accuracy_degradation: the loss, in the metric's unit; negative for a gain.
        relative_accuracy_degradation: the same in percent of the uncompressed accuracy's magnitude; infinite at 0.
        accuracy_margin: how far the accuracy is inside the threshold.
        parameters_removed: share of the parameters that are gone or zero.
        macs_removed: share of the multiply-accumulates removed.
        trials: their number.
        epochs: of all of them.
    """

    uncompressed_accuracy: float
    achieved_rate: float
    compressed_accuracy: float
    absolute_accuracy_degradation: float
    relative_accuracy_degradation: float
    accuracy_margin: float
    parameters_removed: float
    macs_removed: float
    trials: int
    epochs: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)

    def to_str(self) -> str:
        """A few lines of text."""
        return "\n".join(
            [
                f"accuracy          {self.compressed_accuracy:g} (uncompressed {self.uncompressed_accuracy:g}, "
                f"{self.absolute_accuracy_degradation:.3g} lost, {self.relative_accuracy_degradation:.3g} %)",
                f"accuracy budget   {self.accuracy_margin:.3g} left",
                f"compression rate  {self.achieved_rate:.4g} ({self.parameters_removed:.1%} of the parameters, "
                f"{self.macs_removed:.1%} of the multiply-accumulates removed)",
                f"search            {self.trials} rates, {self.epochs} epochs",
            ]
        )

    def __str__(self) -> str:
        return self.to_str()


def statistics_of(result: CompressionResult) -> LoopStatistics:
    """The statistics of a finished run.

    Raises:
        InfeasibleBudgetError: nothing stayed within the budget.
    """
    record, baseline, verdict = result.best, result.baseline, result.verdict
    accuracy = record.accuracy if verdict is None else verdict.accuracy
    assert accuracy is not None
    lost = (baseline.accuracy - accuracy) * (1 if baseline.higher_is_better else -1)
    size = abs(baseline.accuracy)
    return LoopStatistics(
        uncompressed_accuracy=baseline.accuracy,
        achieved_rate=record.achieved_rate or 0.0,
        compressed_accuracy=accuracy,
        absolute_accuracy_degradation=lost,
        relative_accuracy_degradation=100 * lost / size if size else float("inf") if lost > 0 else 0.0,
        accuracy_margin=accuracy_margin(accuracy, result.threshold, higher_is_better=baseline.higher_is_better),
        parameters_removed=record.parameters_removed or 0.0,
        macs_removed=record.macs_removed or 0.0,
        trials=len(result.records),
        epochs=sum(each.epochs for each in result.records),
    )
