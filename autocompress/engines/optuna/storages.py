"""Where a study is: its storage by address, what is told of it, and samplers by name."""

from __future__ import annotations

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from autocompress.engines.optuna.records import PLAN
from autocompress.engines.plan import ExperimentPlan
from autocompress.errors import ConfigError, StoreError, unknown_name
from autocompress.store import ExperimentDirectory

_SAMPLERS = ("CmaEsSampler", "GPSampler", "QMCSampler", "RandomSampler", "TPESampler")


def default_storage(store: ExperimentDirectory) -> str:
    """A SQLite file in the study's directory."""
    return f"sqlite:///{store.path / 'study.db'}"


def address(storage: str | optuna.storages.BaseStorage | None) -> str | None:
    """What is written down of a storage: its address, a password masked; None for the default and for objects.

    Raises:
        ConfigError: it is no address.
    """
    if not isinstance(storage, str):
        return None
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except ArgumentError as error:
        raise ConfigError(
            f"a storage must be an address such as sqlite:///study.db or postgresql://host/database; got {storage!r}"
        ) from error


def told_storage(plan: ExperimentPlan, store: ExperimentDirectory) -> tuple[str, str]:
    """Address and name of the study that a directory belongs to.

    Raises:
        StoreError: it belongs to no study.
        ConfigError: the address has a password, which is not written down.
    """
    if plan.engine.get("name") != "optuna":
        raise StoreError(f"{store.settings_path} does not hold an Optuna study")
    told, name = plan.engine["storage"], str(plan.engine["study"])
    if told is None:
        return default_storage(store), name
    if make_url(told).password is not None:
        raise ConfigError(f"the storage of study {name!r} must be given, as its password is not written down: {told}")
    return str(told), name


def plan_of(storage: str | optuna.storages.BaseStorage, study_name: str | None) -> ExperimentPlan:
    """What a study in a storage searches.

    Raises:
        StoreError: the storage has no such study, or one that is not ours.
    """
    try:
        study = optuna.load_study(study_name=study_name, storage=storage)
    except (KeyError, ValueError) as error:
        known = optuna.get_all_study_names(storage)
        raise StoreError(unknown_name("study", str(study_name), known)) from error
    if PLAN not in study.user_attrs:
        raise StoreError(f"the study {study_name!r} must be one of autocompress that has begun; it has no plan")
    return ExperimentPlan.from_dict(study.user_attrs[PLAN])


def named_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """One of Optuna's samplers: `TPESampler`, or `TPE` for short.

    Raises:
        ConfigError: no sampler has that name, or it needs a package that is not installed.
    """
    known = {each.removesuffix("Sampler").lower(): each for each in _SAMPLERS}
    short = name.lower().removesuffix("sampler").replace("-", "")
    if short not in known:
        names = [each.removesuffix("Sampler") for each in _SAMPLERS]
        raise ConfigError(unknown_name("sampler of Optuna", name, ["AdaptiveCompression", *names]))
    try:
        sampler: optuna.samplers.BaseSampler = getattr(optuna.samplers, known[short])(seed=seed)
    except ImportError as error:
        raise ConfigError(f"sampler {name!r} needs a package that is not installed: {error}") from error
    return sampler
