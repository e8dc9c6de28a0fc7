"""Watch a search's directory and notify callbacks, whatever the engine, from a thread that cannot slow or stop it."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from autocompress.errors import ConfigError, InfeasibleBudgetError, StoreError, unknown_name
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial
from autocompress.tracking.callback import Callback

_SECONDS_BETWEEN = 0.5
_logger = logging.getLogger("autocompress.tracking")


class Follower:
    """Notifies callbacks of new events in an experiment's directory, which need not exist yet."""

    def __init__(self, store: ExperimentDirectory, callbacks: Sequence[Callback]) -> None:
        self._store = store
        self._callbacks = list(callbacks)
        known = Ledger(store).records if store.journal.path.exists() else []
        self._reported = len(known)
        self._epochs = {record.key: len(store.trial(record.key).curve()) for record in known}

    def poll(self) -> None:
        """Report what has happened since the last call."""
        if not self._callbacks or not self._store.journal.path.exists():
            return
        ledger = Ledger(self._store)
        for record in ledger.records[self._reported :]:
            if record.key in ledger.proposed:
                self._report_epochs(ledger.proposed[record.key])
            self._notify("on_trial_end", record)
            self._reported += 1
        for trial in ledger.open.values():
            self._report_epochs(trial)

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
