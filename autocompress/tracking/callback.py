"""Callbacks, and the thread that watches a search's directory and notifies them, whatever the engine."""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autocompress.errors import AutoCompressError, ConfigError, InfeasibleBudgetError, StoreError, unknown_name
from autocompress.plan import ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.report.verdict import at_rate, gain, trial_line
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial

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


_shows_progress = contextvars.ContextVar("shows_progress", default=True)


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """Print nothing of searches in the block, as the command line has a display of its own."""
    before = _shows_progress.set(False)
    try:
        yield
    finally:
        _shows_progress.reset(before)


def say(text: str) -> None:
    """Print a line about a search, unless in `without_progress`."""
    if _shows_progress.get():
        print(text, flush=True)


class Progress(Callback):
    """Prints a line for each trial; in a notebook under a bar.

    Args:
        store: the search's directory.
        trials: how many have ended already.
    """

    def __init__(self, store: ExperimentDirectory, trials: int) -> None:
        self._store, self._trials = store, trials
        self._bar: Any = None
        print(f"the search is in {store.path}", flush=True)

    def on_trial_end(self, record: TrialRecord) -> None:
        """Print its line."""
        self._trials += 1
        text = trial_line(record, self._trials)
        if not _is_notebook():
            print(text, flush=True)
            return
        self._bar = self._bar or self._new_bar()
        self._bar.write(text)
        self._bar.update(self._trials - self._bar.n)

    def on_search_end(self, result: CompressionResult) -> None:
        """Print what was found; that nothing was is raised."""
        self.close()
        with contextlib.suppress(AutoCompressError):
            best = result.best
            print(
                f"best: {at_rate(best.algorithm, best.requested_rate)}, {gain(best)}; {result.checkpoint}", flush=True
            )

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _new_bar(self) -> Any:
        from tqdm.auto import tqdm  # here: it looks for a notebook's widgets

        return tqdm(total=ExperimentPlan.read(self._store).most_trials, unit="trial")


def _is_notebook() -> bool:
    shell = getattr(builtins, "get_ipython", None)
    return shell is not None and "IPKernelApp" in getattr(shell(), "config", {})


_SECONDS_BETWEEN = 0.5
_logger = logging.getLogger("autocompress.tracking")


class Follower:
    """Notifies callbacks of new events in an experiment's directory, which need not exist yet."""

    def __init__(self, store: ExperimentDirectory, callbacks: Sequence[Callback]) -> None:
        self._store = store
        self._callbacks = list(callbacks)
        self._ledger: Ledger | None = None
        known = Ledger(store).records if store.journal.path.exists() else []
        self._reported = len(known)
        if _shows_progress.get():
            self._callbacks.append(Progress(store, self._reported))
        self._epochs = {record.key: len(store.trial(record.key).curve()) for record in known}

    def poll(self) -> None:
        """Report what has happened since the last call."""
        if not self._callbacks or not self._store.journal.path.exists():
            return
        ledger = self._read()
        for record in ledger.records[self._reported :]:
            if record.key in ledger.proposed:
                self._report_epochs(ledger.proposed[record.key])
            self._notify("on_trial_end", record)
            self._reported += 1
        for trial in ledger.open.values():
            self._report_epochs(trial)

    def _read(self) -> Ledger:
        """What is new only; all of it after an error, as a journal may be cut when it is repaired."""
        known, self._ledger = self._ledger, None
        if known is None:
            known = Ledger(self._store)
        else:
            known.refresh()
        self._ledger = known
        return known

    def end(self) -> None:
        """The search has ended by itself: report what is left, and its end."""
        from autocompress.result import CompressionResult

        self.poll()
        self._notify("on_search_end", CompressionResult(self._store))

    def close(self) -> None:
        """Close the callbacks."""
        self._notify("close")

    def _report_epochs(self, trial: PendingTrial) -> None:
        curve = self._store.trial(trial.key).curve()
        reported = self._epochs.get(trial.key, 0)
        for epoch in curve[reported if reported <= len(curve) else 0 :]:  # a trial that runs again restarts its curve
            self._notify("on_epoch_end", trial, epoch)
        self._epochs[trial.key] = len(curve)

    def _notify(self, method: str, *arguments: Any) -> None:
        for callback in list(self._callbacks):
            try:
                getattr(callback, method)(*arguments)
            except Exception:
                self._callbacks.remove(callback)
                _logger.exception("%s failed and is not called again; the search goes on", type(callback).__name__)


@contextlib.contextmanager
def notify_callbacks(store: ExperimentDirectory, callbacks: Sequence[Callback]) -> Iterator[Callable[[], None]]:
    """Notify callbacks of a search while the block runs; call the yielded function when it has ended by itself."""
    follower, ended = Follower(store, callbacks), threading.Event()

    def follow() -> None:
        while not ended.wait(_SECONDS_BETWEEN):
            with contextlib.suppress(StoreError):  # a file that is being written; the search itself reports errors
                follower.poll()

    thread = threading.Thread(target=follow, name="autocompress-callbacks", daemon=True)
    thread.start()
    over = False

    def end() -> None:
        nonlocal over
        over = True

    try:
        yield end
    except InfeasibleBudgetError:
        end()
        raise
    finally:
        ended.set()
        thread.join()
        follower.end() if over else follower.poll()
        follower.close()


_TRACKERS = {"mlflow": "MlflowCallback", "tensorboard": "TensorBoardCallback", "wandb": "WandbCallback"}
"""Module in this package -> its class: imported when it is chosen."""


def tracker(text: str) -> Callback:
    """The tracker given as `<name>=<where>`.

    Raises:
        ConfigError: there is none of that name, the place is missing, or it cannot be used.
    """
    name, separator, place = text.partition("=")
    if name not in _TRACKERS:
        raise ConfigError(unknown_name("tracker", name, _TRACKERS))
    if not separator or not place:
        raise ConfigError(f"a tracker must be given as NAME=WHERE, as in tensorboard=runs; got {text!r}")
    module = importlib.import_module(f"autocompress.tracking.{name}")
    callback: Callback = getattr(module, _TRACKERS[name])(place)
    return callback
