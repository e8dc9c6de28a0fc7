"""A storage that is waited for: a database server that restarts does not end a search of days."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.storages import BaseStorage
from sqlalchemy.exc import DBAPIError

from autocompress.errors import StoreError

_logger = logging.getLogger("autocompress.optuna")
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0


class _Patience:
    """What a patient storage does beside passing calls on.

    Args:
        storage: any of Optuna's.
        seconds: how long it may be away.
    """

    def __init__(self, storage: BaseStorage, seconds: float) -> None:
        self._storage = storage
        self.seconds = seconds

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """The method's answer, once the storage gives one.

        Raises:
            StoreError: it has been away for too long.
        """
        started, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                return getattr(self._storage, method)(*arguments, **keywords)
            except Exception as error:
                if not _is_away(error):
                    raise
                away = time.monotonic() - started
                if away >= self.seconds:
                    raise StoreError(f"the study's storage has not answered for {away:.0f} s: {error}") from error
                if wait == _FIRST_WAIT:
                    _logger.warning("the study's storage does not answer; trying again (%s)", _first_line(error))
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)


def _passed_on(method: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, method), updated=())  # else it stays abstract
    def passed_on(self: _Patience, *arguments: Any, **keywords: Any) -> Any:
        return self.call(method, *arguments, **keywords)

    return passed_on


_METHODS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]


def patient(storage: BaseStorage, seconds: float = 600.0) -> Any:
    """The same storage, whose every method waits while the server behind it is away.

    Args:
        storage: any of Optuna's.
        seconds: how long it may be away; afterwards a `StoreError` is raised.
    """
    kind = type("PatientStorage", (_Patience, BaseStorage), {name: _passed_on(name) for name in _METHODS})
    return kind(storage, seconds)


def _is_away(error: Exception) -> bool:
    """Whether it may answer later: a connection, a lock or a full disk; not a wrong argument."""
    known = isinstance(error, optuna.exceptions.StorageInternalError | DBAPIError | ConnectionError | TimeoutError)
    return known or type(error).__module__.startswith("grpc")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
