"""`AutoCompressionExperiment`: NNI's `Experiment`, for compressing a model within an accuracy budget."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nni.experiment import Experiment, ExperimentConfig, RunMode

from autocompress.argument_checks import checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.nni.configuration import canonical, plan_experiment
from autocompress.engines.nni.lifecycle import (
    Session,
    change_limit,
    create_algorithms,
    create_experiment,
    end_experiment,
    exists_in_nni,
    load_config,
    place_in_nni,
    reopen_experiment,
)
from autocompress.engines.nni.manager import (
    Machines,
    Manager,
    launch_manager,
    launch_on_free_port,
    make_logs_private,
    post_experiment,
    require_free_port,
)
from autocompress.errors import EngineError, command
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.translation import search_space_of, settings_of
from autocompress.plan import ExperimentPlan, NniPlan
from autocompress.records import Baseline
from autocompress.result import CompressionResult
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.directory import removed_if_unused
from autocompress.tracking import Callback, notify_callbacks
from autocompress.trial.child import end_orphan, refuse_in_child

_logger = logging.getLogger("nni.autocompress")  # below NNI's own, which prints on a terminal as its users know it


class AutoCompressionExperiment(Experiment):  # type: ignore[misc]  # NNI is not typed
    """Finds the highest compression rate of a model within an accuracy budget.

    Everything of NNI's `Experiment` works as its users know it: `config`, `start`, `run`, `stop`, `resume`, `view`.
    There is no trial command to set. `run` returns when the search has ended by itself.

    Args:
        module: the class that inherits `AbstractAutoCompressionModule`, or a reference to it.
        config_or_platform: NNI's configuration, or the name of a training service such as "local".
        id: NNI's experiment id; a new one by default.
        directory: where the experiment is kept; `autocompress-<id>` in NNI's working directory by default.

    Attributes:
        config: NNI's configuration. `tuner.name` is "AdaptiveCompression" by default; NNI's built-in tuners work as
            well.
        budget: the tolerated accuracy degradation; 1 % relative by default.
        settings: all settings of the search, the budget among them.
        objective: what trials are compared by: "rate", "parameters", "macs" or "size". By default "rate" for one
            algorithm, "size" for several.
        callbacks: notified of the search while it runs.
        confirmed: whether a budget below .05 % or above 50 % of the uncompressed accuracy is only warned of; else it is
            refused.
        baseline: the uncompressed model, where it has been measured already.

    Raises:
        ModuleError: the class cannot be found again by a trial's process, or lacks a required method.
    """

    @checked_arguments
    def __init__(
        self,
        module: type[AbstractAutoCompressionModule] | ModuleReference,
        config_or_platform: ExperimentConfig | str | list[str] | None = "local",
        id: str | None = None,
        *,
        directory: str | Path | None = None,
    ) -> None:
        super().__init__(config_or_platform, id)
        self.port: int | None
        self.url_prefix: str | None
        self._proc: Any
        self.config: ExperimentConfig = self.config or ExperimentConfig("local")
        self.module = module if isinstance(module, ModuleReference) else ModuleReference.of(module)
        self._runs_module = True  # the caller has named it
        self.settings = AccuracyAwareSettings()
        self.objective: str | None = None
        self.confirmed = True
        self.baseline: Baseline | None = None
        self._given_directory = directory
        self._store: ExperimentDirectory | None = None
        self._manager: Manager | None = None
        self._session: Session | None = None
        self._held = contextlib.ExitStack()
        self.callbacks: list[Callback] = []
        self._following = contextlib.ExitStack()
        self._tell_end: Callable[[], None] = lambda: None
        self._limit_changed = False

    @classmethod
    @checked_arguments
    def from_config(
        cls,
        config: CompressionConfig,
        module: type[AbstractAutoCompressionModule] | ModuleReference,
        config_or_platform: ExperimentConfig | str | list[str] | None = "local",
        *,
        directory: str | Path | None = None,
    ) -> AutoCompressionExperiment:
        """An experiment that searches what an NNCF-style configuration describes.

        Raises:
            ConfigError: the configuration asks for no search, or for what an experiment cannot do.
            ModuleError: as for the class itself.
        """
        experiment = cls(module, config_or_platform, directory=directory)
        experiment.config.search_space = search_space_of(config)
        experiment.settings = settings_of(config)
        return experiment

    @classmethod
    @checked_arguments
    def open(cls, directory: str | Path) -> AutoCompressionExperiment:
        """An experiment that was started before, from its directory: to `resume`, to `view`, to read its `result`.

        Raises:
            StoreError: there is no experiment in the directory.
        """
        store = ExperimentDirectory(directory)
        plan = ExperimentPlan.read(store)
        experiment_id, config = load_config(plan, store)
        experiment = cls(ModuleReference.from_dict(plan.module), config, experiment_id, directory=store.path)
        experiment._store, experiment._runs_module = store, False
        experiment.settings, experiment.objective = plan.settings, plan.objective
        return experiment

    @property
    def budget(self) -> AccuracyBudget:
        """The tolerated accuracy degradation."""
        return self.settings.budget

    @budget.setter
    @checked_arguments
    def budget(self, budget: AccuracyBudget) -> None:
        self.settings = self.settings.with_budget(budget)

    @property
    def directory(self) -> Path:
        """Where the experiment is kept."""
        return self._directory().path

    @property
    def url(self) -> str | None:
        """The web page, None while the experiment is not running."""
        return self._manager.url if self._manager else None

    @property
    def result(self) -> CompressionResult:
        """What has been found so far; verified when the search has ended.

        Raises:
            StoreError: the experiment has not been started.
        """
        return CompressionResult(self._directory(), self.module if self._runs_module else None)

    @checked_arguments
    def start(self, port: int | None = 8080, debug: bool = False, run_mode: RunMode = RunMode.Background) -> None:
        """Make the preflight, measure the uncompressed model, and start the experiment in the background.

        Args:
            port: port of the web page on 127.0.0.1; None: 8080, or a free one where that is taken. The address is
                `url`, and is printed.
            debug: log at debug level.
            run_mode: with `RunMode.Detach` NNI's manager keeps running when Python exits; the search itself does not.

        Raises:
            AutoCompressError: something is wrong with the input, the directory, the port, or NNI does not start.
        """
        refuse_in_child("an experiment must not be started")
        with removed_if_unused(self._directory().path):
            try:
                self._start(port, debug, run_mode)
            except BaseException:
                self._release()
                raise

    def stop(self) -> None:
        """Stop the experiment. Trials that are running are interrupted and will run again after `resume`."""
        atexit.unregister(self.stop)
        self._release()
        self._stop_logging()

    @checked_arguments
    def resume(self, port: int | None = 8080, wait_completion: bool = True, debug: bool = False) -> bool | None:
        """Resume an experiment that was stopped or killed. No finished trial is trained again.

        Args:
            port: as in `start`.
            wait_completion: wait until the search has ended.
            debug: log at debug level.

        Raises:
            AutoCompressError: there is no such experiment, it is running, or as in `run`.
        """
        self._action, self._runs_module = "resume", True
        return self._run_impl(port, wait_completion, debug)

    @checked_arguments
    def view(self, port: int | None = 8080, non_blocking: bool = False) -> AutoCompressionExperiment:
        """Show the web page of an experiment that has ended, without resuming it.

        Args:
            port: as in `start`.
            non_blocking: return at once; `stop` ends it.
        """
        self._action = "view"
        atexit.register(self.stop)
        self._start_manager(port, debug=False, run_mode=RunMode.Background)
        try:
            while not non_blocking:
                time.sleep(1)
        except KeyboardInterrupt:
            self.stop()
        return self

    def _run_impl(self, port: int | None, wait_completion: bool, debug: bool) -> bool | None:
        try:
            self.start(port, debug)
            return self._wait_completion() if wait_completion else None
        except KeyboardInterrupt:
            self.stop()
            _logger.info("stopped; go on with: %s", command("autocompress", "resume", self.directory))
            return None

    def _wait_completion(self) -> bool:
        """Wait until the search has ended, then load its best model afresh and evaluate it.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
        """
        if self._session is None:
            raise EngineError("the experiment is not running")
        try:
            self._session.wait()
        except Exception:
            self.stop()
            raise
        with self._following:
            self.result.verify()
            self._tell_end()
        return True

    def _start(self, port: int | None, debug: bool, run_mode: RunMode) -> None:
        _require_attributes(self.settings, self.objective, self.callbacks, self.confirmed)
        store = self._directory()
        if port is not None:
            require_free_port(port)
        if self._action == "resume":
            plan = self._reopened(store)
        else:
            plan = plan_experiment(self.config, self.module, self.settings, self.objective)
            plan = create_experiment(
                plan,
                self.config,
                self.id,
                self.module,
                store,
                self._held,
                confirmed=self.confirmed,
                baseline=self.baseline,
            )
        ledger = Ledger(store)
        machines = Machines.of(self.config, self.id, store)
        machines.prepare()
        for key in ledger.open:
            end_orphan(store.trial(key), _logger)
            machines.fetch(key)
        ledger.settle_ended()
        algorithms = create_algorithms(plan, ledger, self._finish, machines)
        if run_mode is not RunMode.Detach:
            atexit.register(self.stop)
        self._tell_end = self._following.enter_context(notify_callbacks(store, self.callbacks))
        manager = self._start_manager(port, debug, run_mode)
        self._session = Session(manager, algorithms, resumed=self._action == "resume")

    def _reopened(self, store: ExperimentDirectory) -> ExperimentPlan:
        plan = reopen_experiment(self.id, self.module, store, self._held)
        if exists_in_nni(self.id, store.path / "nni"):
            place_in_nni(self.id, canonical(self.config))
        else:
            self._action = "create"
        if plan.maximal_trials == self.config.max_trial_number:
            return plan
        self._limit_changed = True
        config = {**plan.engine_as(NniPlan).config, "maxTrialNumber": self.config.max_trial_number}
        changed = dataclasses.replace(plan, engine=NniPlan(self.id, config))
        store.write_settings(changed.to_dict())
        return changed

    def _start_manager(self, port: int | None, debug: bool, run_mode: RunMode) -> Manager:
        config = canonical(self.config)
        if config.max_trial_number is not None:
            config.max_trial_number += 1  # the first one shows the uncompressed model
        make_logs_private(self.id, config)
        self._start_logging(debug)
        self._held.callback(self._forget_manager)
        if run_mode is not RunMode.Detach:
            self._held.callback(lambda: None if self._manager is None else self._manager.stop())
        launch = partial(launch_manager, self._action, self.id, config, debug=debug)
        manager = self._manager = launch_on_free_port(launch) if port is None else launch(port)
        self.port, self.url_prefix = manager.port, manager.url_prefix
        self._proc = manager.process
        post_experiment(manager, config)
        if self._limit_changed and self._action == "resume":
            change_limit(manager, config.max_trial_number)
        _logger.info("web page: %s", manager.url)
        return manager

    def _finish(self) -> None:
        if self._manager is not None:
            end_experiment(self._manager)

    def _directory(self) -> ExperimentDirectory:
        if self._store is None:
            given = self._given_directory
            home = Path(str(self.config.experiment_working_directory)).expanduser()
            self._store = ExperimentDirectory(given if given is not None else home / f"autocompress-{self.id}")
        return self._store

    def _release(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.stop()
        self._following.close()
        self._held.close()

    def _forget_manager(self) -> None:
        self._manager = None
        self.port = self._proc = self.url_prefix = None  # NNI's own


@checked_arguments
def _require_attributes(
    settings: AccuracyAwareSettings,
    objective: str | None,
    callbacks: Sequence[Callback],
    confirmed: bool,
) -> None:
    """Check attributes that users set."""
