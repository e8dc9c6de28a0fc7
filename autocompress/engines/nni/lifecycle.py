"""One run of an experiment on NNI: the manager, the dispatcher and the running trials, from start to end."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from nni.assessor import Assessor
from nni.experiment import ExperimentConfig, rest
from nni.tools.package_utils import create_builtin_class_instance

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.nni.baseline_trial import BaselineFirstTuner
from autocompress.engines.nni.builtin_tuners import BuiltinTuner, create_builtin_tuner
from autocompress.engines.nni.configuration import canonical_json, complete_config, place_config
from autocompress.engines.nni.dispatcher import AdaptiveCompressionAssessor, Dispatcher
from autocompress.engines.nni.manager import Machines, Manager, find_manager
from autocompress.engines.nni.tuner import AdaptiveCompression, RunningTrials
from autocompress.engines.start import announce, length_of, open_experiment
from autocompress.errors import ConfigError, EngineError, StoreError
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan, NniPlan
from autocompress.records import Baseline
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.directory import require_space
from autocompress.trial.child import end_process, measure_in_child

_POLL_SECONDS = 0.2
_RESTART_SECONDS = 10.0


@dataclass
class Algorithms:
    """The tuner and the assessor of an experiment, and the trials that they share."""

    trials: RunningTrials
    tuner: AdaptiveCompression | BuiltinTuner
    assessor: Assessor | None


def create_algorithms(
    plan: ExperimentPlan, ledger: Ledger, finish: Callable[[], None], machines: Machines
) -> Algorithms:
    """The tuner and the assessor that a plan names; `finish` is called once when there is nothing left to try."""
    limit = plan.settings.maximal_trial_seconds
    trials = RunningTrials(ledger, plan.measured.fingerprint, plan.threshold, finish, machines, limit)
    tuner: AdaptiveCompression | BuiltinTuner
    if plan.tuner == ADAPTIVE_TUNER:
        tuner = AdaptiveCompression(plan.searches, plan.trial_parameters, trials)
    else:
        builtin = create_builtin_tuner(plan.tuner, plan.tuner_arguments, plan.settings.seed)
        tuner = BuiltinTuner(builtin, trials, plan.builtin_search_fields, plan.settings.maximal_total_epochs)
    return Algorithms(trials, tuner, _assessor(plan, ledger))


def _assessor(plan: ExperimentPlan, ledger: Ledger) -> Assessor | None:
    if plan.assessor is None:
        return None
    if plan.assessor != ADAPTIVE_TUNER:
        try:
            return create_builtin_class_instance(plan.assessor, plan.assessor_arguments, "assessors")
        except Exception as error:  # NNI's validators raise errors of many types
            raise ConfigError(f"assessor {plan.assessor!r} could not be created: {error}") from error
    done = sum(record.epochs for record in ledger.records)
    if plan.tuner != ADAPTIVE_TUNER:
        return AdaptiveCompressionAssessor(plan.settings.maximal_total_epochs, None, done)
    patience = plan.stages * plan.settings.most_epochs
    return AdaptiveCompressionAssessor(plan.maximal_total_epochs, patience, done)


class Session:
    """A manager that runs an experiment, connected to the tuner and the assessor."""

    def __init__(self, manager: Manager, algorithms: Algorithms, *, resumed: bool) -> None:
        self.manager = manager
        self._trials = algorithms.trials
        tuner = BaselineFirstTuner(algorithms.tuner, begun=resumed)
        self._dispatcher = Dispatcher(manager.tuner_channel, tuner, algorithms.assessor, self._trials.note_end)
        self._dispatcher.start()

    def wait(self) -> None:
        """Return when the experiment is done.

        Raises:
            AutoCompressError: the tuner, the assessor, a trial or NNI's manager failed; the cause is chained.
        """
        while True:
            self.manager.require_alive()  # first: that it is gone explains what the tuner may have raised
            self._dispatcher.raise_error()
            status = self._status()
            if status in ("DONE", "STOPPED"):
                self._dispatcher.raise_error()
                return
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop everything; later reports of running trials are ignored."""
        self._trials.close()
        self.manager.stop()
        self._dispatcher.close()

    def _status(self) -> str:
        try:
            answer = self.manager.get("/check-status")
        except requests.RequestException as error:
            time.sleep(_POLL_SECONDS)
            self.manager.require_alive()
            raise EngineError(f"NNI's manager does not answer: {error}") from error
        if answer["status"] == "ERROR":
            self._dispatcher.raise_error()
            reasons = "; ".join(answer.get("errors") or ["(no reason given)"])
            require_space(self._trials.ledger.directory.path, reasons)
            raise EngineError(f"NNI's manager failed: {reasons}")
        return str(answer["status"])


def end_experiment(manager: Manager) -> None:
    """Let the experiment be DONE as soon as its running trials are: no more trials than there are."""
    with contextlib.suppress(requests.ConnectionError):  # it is going down already
        profile = manager.get("/experiment")
        _set_limit(manager, profile, max(1, profile["nextSequenceId"]))


def change_limit(manager: Manager, trials: int | None) -> None:
    """Let a resumed experiment have another number of trials; NNI goes on with the one that it has stored.

    Args:
        manager: running, resumed.
        trials: the most trials in all; None: no limit.
    """
    profile = manager.get("/experiment")
    _set_limit(manager, profile, trials)
    if trials is not None and trials <= profile["nextSequenceId"]:
        return
    deadline = time.monotonic() + _RESTART_SECONDS
    while manager.get("/check-status")["status"] == "DONE" and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)  # it was, by the old limit; the manager looks again every second


def _set_limit(manager: Manager, profile: dict[str, Any], trials: int | None) -> None:
    profile["params"].pop("maxTrialNumber", None)
    profile["params"] |= {} if trials is None else {"maxTrialNumber": trials}
    rest.put(manager.port, "/experiment?update_type=MAX_TRIAL_NUM", profile, manager.url_prefix)


_logger = logging.getLogger("nni.autocompress")


def create_experiment(
    plan: ExperimentPlan,
    config: ExperimentConfig,
    experiment_id: str,
    module: ModuleReference,
    store: ExperimentDirectory,
    held: ExitStack,
    *,
    confirmed: bool = True,
    baseline: Baseline | None = None,
) -> ExperimentPlan:
    """Create the directory, measure the uncompressed model unless it is given, and write the plan, which is returned.

    NNI's configuration is completed in place; the directory's lock is added to `held`.
    """
    store.create()
    held.enter_context(store.locked())
    measured = baseline or measure_in_child(
        plan.module, plan.search_space, store.path, plan.settings, confirmed=confirmed
    )
    limit = plan.settings.maximal_trial_seconds
    complete_config(config, experiment_id, store.path, module, plan.space, limit)
    plan = plan.with_baseline(measured, NniPlan(experiment_id, canonical_json(config)))
    store.write_settings(plan.to_dict())
    if baseline is None:
        announce(plan, _logger, length_of(plan, config.max_trial_number))
    return plan


def reopen_experiment(
    experiment_id: str, module: ModuleReference, store: ExperimentDirectory, held: ExitStack
) -> ExperimentPlan:
    """Take over a directory: end a manager that was left running, repair the journal.

    The directory's lock is added to `held`.
    """
    store.settings()  # a directory without an experiment is not locked, which would make it
    held.enter_context(store.locked())
    end_process(find_manager(experiment_id, store.path / "nni"))
    return open_experiment(store, fingerprint=module.fingerprint(), logger=_logger)


def load_config(plan: ExperimentPlan, store: ExperimentDirectory) -> tuple[str, ExperimentConfig]:
    """NNI's id and configuration of an experiment, from its plan."""
    engine = plan.engine_as(NniPlan)
    try:
        known = ExperimentConfig(**engine.config)
    except Exception as error:  # NNI raises errors of many types
        raise StoreError(f"{store.settings_path}: NNI does not accept the configuration: {error}") from error
    place_config(known, store.path)
    return engine.id, known


def exists_in_nni(experiment_id: str, working_directory: Path) -> bool:
    """Whether NNI has written the experiment to its data base.

    NNI's own query unpickles what the data base holds.
    """
    query = "select count(*) from ExperimentProfile where id = ?"
    try:
        with _data_base(experiment_id, working_directory, "ro") as base:
            return bool(base.execute(query, (experiment_id,)).fetchone()[0])
    except sqlite3.Error:  # no file or no table
        return False


def place_in_nni(experiment_id: str, config: ExperimentConfig) -> None:
    """Write to NNI's data base where the experiment is now: NNI resumes what it has stored, whatever it is given.

    Raises:
        EngineError: the data base is damaged, or cannot be written.
    """
    home, known = Path(config.experiment_working_directory), canonical_json(config)
    changes = {name: known.get(name) for name in ("experimentWorkingDirectory", "trialCommand", "trainingService")}
    try:
        with _data_base(experiment_id, home, "rw") as base, base:
            rows = base.execute("select rowid, params from ExperimentProfile where id = ?", (experiment_id,)).fetchall()
            for row, params in rows:
                stored = json.loads(params)
                if any(stored.get(name) != value for name, value in changes.items()):
                    text = json.dumps({**stored, **changes})
                    base.execute("update ExperimentProfile set params = ? where rowid = ?", (text, row))
    except (sqlite3.Error, ValueError) as error:
        raise EngineError(f"NNI's data base of experiment {experiment_id} must be whole: {error}") from error


@contextlib.contextmanager
def _data_base(experiment_id: str, working_directory: Path, mode: str) -> Iterator[sqlite3.Connection]:
    path = working_directory / experiment_id / "db" / "nni.sqlite"
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode={mode}", uri=True)) as base:
        yield base
