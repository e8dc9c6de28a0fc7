"""Watch a search's directory and notify callbacks, whatever the engine, from a thread that cannot slow or stop it."""

from __future__ import annotations

import contextlib
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
        self._told = len(known)
        self._epochs = {record.key: len(store.trial(record.key).curve()) for record in known}

    def look(self) -> None:
        """Report what has happened since the last call."""
        if not self._callbacks or not self._store.journal.path.exists():
            return
        ledger = Ledger(self._store)
        for record in ledger.records[self._told :]:
            if record.key in ledger.proposed:
                self._tell_epochs(ledger.proposed[record.key])
            self._tell("on_trial_end", record)
            self._told += 1
        for trial in ledger.open.values():
            self._tell_epochs(trial)

    def end(self) -> None:
        """The search has ended by itself: report what is left, and its end."""
        from autocompress.result import CompressionResult

        self.look()
        self._tell("on_search_end", CompressionResult(self._store))

    def close(self) -> None:
        """Close the callbacks."""
        self._tell("close")

    def _tell_epochs(self, trial: PendingTrial) -> None:
        curve = self._store.trial(trial.key).curve()
        told = self._epochs.get(trial.key, 0)
        for epoch in curve[told if told <= len(curve) else 0 :]:  # one that runs again begins its curve anew
            self._tell("on_epoch_end", trial, epoch)
        self._epochs[trial.key] = len(curve)

    def _tell(self, what: str, *told: Any) -> None:
        for callback in list(self._callbacks):
            try:
                getattr(callback, what)(*told)
            except Exception:
                self._callbacks.remove(callback)
                _logger.exception("%s failed and is not called again; the search goes on", type(callback).__name__)


@contextlib.contextmanager
def following(store: ExperimentDirectory, callbacks: Sequence[Callback]) -> Iterator[Callable[[], None]]:
    """Notify callbacks of a search while the block runs; call the yielded function when it has ended by itself."""
    follower, ended = Follower(store, callbacks), threading.Event()

    def follow() -> None:
        while not ended.wait(_SECONDS_BETWEEN):
            with contextlib.suppress(StoreError):  # a file that is being written; whoever runs the search tells of more
                follower.look()

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
        follower.end() if over else follower.look()
        follower.close()


def _tensorboard(directory: str) -> Callback:
    from autocompress.tracking.tensorboard import TensorBoardCallback

    return TensorBoardCallback(directory)


def _mlflow(tracking_uri: str) -> Callback:
    from autocompress.tracking.mlflow import MlflowCallback

    return MlflowCallback(tracking_uri)


def _wandb(project: str) -> Callback:
    from autocompress.tracking.wandb import WandbCallback

    return WandbCallback(project)


_KNOWN: dict[str, Callable[[str], Callback]] = {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}


def tracker(text: str) -> Callback:
    """The tracker given as `<name>=<where>`.

    Raises:
        ConfigError: there is none of that name, the place is missing, or it cannot be used.
    """
    name, separator, place = text.partition("=")
    if name not in _KNOWN:
        raise ConfigError(unknown_name("tracker", name, _KNOWN))
    if not separator or not place:
        raise ConfigError(f"a tracker must be given as NAME=WHERE, as in tensorboard=runs; got {text!r}")
    return _KNOWN[name](place)
