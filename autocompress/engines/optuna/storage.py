"""Studies' storages by address, with retries while a database server restarts; Optuna's samplers by name."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from autocompress.engines.optuna.convert import PLAN
from autocompress.errors import ConfigError, StoreError, beginning, unknown_name
from autocompress.plan import ExperimentPlan, OptunaPlan
from autocompress.store import ExperimentDirectory

_logger = logging.getLogger("autocompress.optuna")
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0


class _Retrying:
    """Calls a storage's methods again until they succeed."""

    def __init__(self, storage: BaseStorage, seconds: float) -> None:
        self._storage = storage
        self.seconds = seconds

    def call(self, method: str, *arguments: Any, **keywords: Any) -> Any:
        """What the method returns.

        Raises:
            StoreError: the storage was unreachable for too long.
        """
        started, wait = time.monotonic(), _FIRST_WAIT
        while True:
            try:
                return getattr(self._storage, method)(*arguments, **keywords)
            except Exception as error:
                if not _is_away(error):
                    raise
                if _is_read_only(error):
                    raise StoreError(f"the study's storage must be one that can be written: {_root(error)}") from error
                away = time.monotonic() - started
                if away >= self.seconds:
                    raise StoreError(f"the study's storage has not answered for {away:.0f} s: {error}") from error
                if wait == _FIRST_WAIT:
                    _logger.warning(
                        "the study's storage does not answer; trying again (%s)",
                        beginning(str(error), type(error).__name__),
                    )
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)


def _passed_on(method: str) -> Callable[..., Any]:
    @functools.wraps(getattr(BaseStorage, method), updated=())  # else it stays abstract
    def passed_on(self: _Retrying, *arguments: Any, **keywords: Any) -> Any:
        return self.call(method, *arguments, **keywords)

    return passed_on


_METHODS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]


def retrying(storage: BaseStorage, seconds: float = 600.0) -> Any:
    """The same storage, whose methods are called again while its server is unreachable.

    Args:
        storage: any of Optuna's.
        seconds: for which it may be unreachable; afterwards a `StoreError` is raised.
    """
    kind = type("RetryingStorage", (_Retrying, BaseStorage), {name: _passed_on(name) for name in _METHODS})
    return kind(storage, seconds)


def _is_away(error: Exception) -> bool:
    """Whether a retry may succeed: a connection, a lock or a full disk; not a wrong argument."""
    known = isinstance(error, optuna.exceptions.StorageInternalError | DBAPIError | ConnectionError | TimeoutError)
    return known or type(error).__module__.startswith("grpc")


def _is_read_only(error: Exception) -> bool:
    text = str(_root(error)).lower()
    return "readonly" in text or "read-only" in text


def _root(error: BaseException) -> BaseException:
    """What the driver of a database says."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error.__cause__
    return error if cause is None else _root(cause)


_GRPC_PORT = 13000  # Optuna's default
_SAMPLERS = ("CmaEsSampler", "GPSampler", "QMCSampler", "RandomSampler", "TPESampler")


STORAGE_FILE = "study.db"
"""In a study's directory, where no other storage is given."""


def default_storage(store: ExperimentDirectory) -> str:
    """A SQLite file in the study's directory.

    What has a meaning in addresses, such as `?`, is quoted for SQLite: versions of SQLAlchemy differ in what they
    quote, and Optuna fills in what is in braces.
    """
    path = str(store.path / STORAGE_FILE)
    if quote(path) == path:
        return f"sqlite:///{path}"
    return URL.create("sqlite", database=f"file:{quote(path)}", query={"uri": "true"}).render_as_string()


def opened(storage: str | BaseStorage) -> BaseStorage:
    """The storage at an address: a database of SQLAlchemy's, `grpc://host:port` of Optuna's proxy, or `journal:///file`.

    Raises:
        ConfigError: it is no address, or needs a package that is not installed.
        StoreError: it cannot be opened.
    """
    if not isinstance(storage, str):
        return optuna.storages.get_storage(storage)
    url = _url(storage)
    try:
        if url.drivername == "grpc":
            return optuna.storages.GrpcStorageProxy(host=url.host or "localhost", port=url.port or _GRPC_PORT)
        if url.drivername == "journal":
            return JournalStorage(JournalFileBackend(str(url.database)))
        return _database(storage)
    except ImportError as error:
        raise ConfigError(f"the storage {address(storage)} needs a package that is not installed: {error}") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"the storage {address(storage)} cannot be opened: {error}") from error
    except NoSuchModuleError as error:
        raise ConfigError(f"the storage {address(storage)} is of no known kind: {error}") from error


def _database(storage: str) -> BaseStorage:
    """Retries, as only one of several workers that create the same tables at the same time succeeds."""
    for wait in (0.5, 2.0, None):
        try:
            return optuna.storages.get_storage(storage)
        except DBAPIError as error:
            if wait is None:
                raise StoreError(f"the storage {address(storage)} cannot be opened: {error.orig}") from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def address(storage: str | BaseStorage | None) -> str | None:
    """The address of a storage as it is stored, a password masked; None for the default and for objects.

    Raises:
        ConfigError: it is no address.
    """
    if not isinstance(storage, str):
        return None
    return _url(storage).render_as_string(hide_password=True)


def _url(storage: str) -> URL:
    try:
        return make_url(storage)
    except ArgumentError as error:
        raise ConfigError(
            f"a storage must be an address such as sqlite:///study.db or postgresql://host/database; got {storage!r}"
        ) from error


def storage_of(plan: ExperimentPlan, store: ExperimentDirectory) -> tuple[str, str]:
    """Address and name of the study that a directory belongs to.

    Raises:
        StoreError: it belongs to no study.
        ConfigError: the address has a password, which is not stored.
    """
    engine = plan.engine_as(OptunaPlan)
    if engine.storage is None:
        return default_storage(store), engine.study
    if _url(engine.storage).password is not None:
        raise ConfigError(
            f"the storage of study {engine.study!r} must be given, as its password is not stored: {engine.storage}"
        )
    return engine.storage, engine.study


def plan_of(storage: str | BaseStorage, study_name: str | None) -> ExperimentPlan:
    """The plan of a study in a storage.

    Raises:
        StoreError: the storage has no such study, or one of other code.
    """
    study = found_study(storage, study_name)
    if PLAN not in study.user_attrs:
        raise StoreError(f"the study {study_name!r} must be one of autocompress that has begun; it has no plan")
    return ExperimentPlan.from_dict(study.user_attrs[PLAN])


def found_study(storage: str | BaseStorage, study_name: str | None) -> optuna.Study:
    """A study in a storage.

    Raises:
        StoreError: the storage has no such study.
    """
    place = opened(storage)
    try:
        return optuna.load_study(study_name=study_name, storage=place)
    except (KeyError, ValueError) as error:
        known = optuna.get_all_study_names(place)
        raise StoreError(unknown_name("study", str(study_name), known)) from error


def sampler_name(name: str) -> str:
    """The short name of one of Optuna's samplers: `TPE`.

    Raises:
        ConfigError: no sampler has that name.
    """
    wanted = name.lower().removesuffix("sampler").replace("-", "")
    for known in sampler_names():
        if known.lower() == wanted:
            return known
    raise ConfigError(unknown_name("sampler of Optuna", name, ["AdaptiveCompression", *sampler_names()]))


def sampler_names() -> list[str]:
    """Short names of Optuna's samplers."""
    return [name.removesuffix("Sampler") for name in _SAMPLERS]


def named_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers: `TPESampler`, or `TPE` for short.

    Raises:
        ConfigError: no sampler has that name, or it needs a package that is not installed.
    """
    try:
        kind = getattr(optuna.samplers, f"{sampler_name(name)}Sampler")
        sampler: optuna.samplers.BaseSampler = kind(seed=seed)
    except ImportError as error:
        raise ConfigError(f"sampler {name!r} needs a package that is not installed: {error}") from error
    return sampler
