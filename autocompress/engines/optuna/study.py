"""`CompressionStudy`: the experiment without NNI, on an Optuna study."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import optuna
from optuna.study import StudyDirection

from autocompress.argument_checks import AT_LEAST_1, checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.optuna.convert import PLAN
from autocompress.engines.optuna.directory_sync import DirectorySync, upload_artifacts
from autocompress.engines.optuna.proposal_sampler import ProposalSampler
from autocompress.engines.optuna.sampler import AdaptiveCompressionPruner, AdaptiveCompressionSampler
from autocompress.engines.optuna.storage import (
    STORAGE_FILE,
    address,
    default_storage,
    named_sampler,
    opened,
    plan_of,
    retrying,
    storage_of,
)
from autocompress.engines.optuna.worker import Worker
from autocompress.engines.start import announce, length_of, require_same_search, warn_of_changes
from autocompress.errors import ConfigError, StoreError
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan, OptunaPlan
from autocompress.records import Baseline, TrialRecord
from autocompress.result import CompressionResult
from autocompress.search_space import SearchSpaceSource, load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.store.artefacts import Artefacts
from autocompress.store.directory import removed_if_unused, require_writable
from autocompress.tracking import Callback, notify_callbacks
from autocompress.trial.child import measure_in_child, refuse_in_child
from autocompress.trial.forkserver import fork_server

_PATIENCE_WHEN_STOPPING = 5.0
_logger = logging.getLogger("autocompress.optuna")


class CompressionStudy:
    """Finds the highest compression rate of a model within an accuracy budget, as an Optuna study.

    The study is the truth: workers with the same storage and name share one search. Trials run in processes of their
    own; their checkpoints are in the directory, which all workers must reach, or at the address of `artefacts`.

    Args:
        module: the class that inherits `AbstractAutoCompressionModule`, or a reference to it.
        search_space: as `AutoCompressionSearchSpaceGenerator.dumps` gives it, or a JSON file.
        budget: the tolerated accuracy degradation; by default that of the settings, which is 1 % relative.
        storage: Optuna's: a URL or an object; by default a SQLite file in the directory.
        sampler: one of Optuna's, which maximises the score; infeasible trials have a constraint above 0. By default the
            adaptive search, also for an `AdaptiveCompressionSampler`, whose settings are then the study's.
        settings: all settings of the search; where the sampler has settings too, they must be the same.
        objective: what trials are compared by; by default "rate" for one algorithm, "size" for several.
        study_name: of a study in the storage; the module's name by default.
        directory: where checkpoints are kept; `autocompress-<study_name>` by default.
        artefacts: address of checkpoints, for workers that share no directory: anything that fsspec knows.
        baseline: the uncompressed model, where it has been measured already.

    Attributes:
        confirmed: whether a budget below .05 % or above 50 % of the uncompressed accuracy is only warned of; else it is
            refused.

    Raises:
        ConfigError: an argument is of another kind; the search space, a setting or the objective breaks a rule; the
            sampler's settings differ from the study's, or it has options that the study does not use.
        ModuleError: the class cannot be found again by a trial's process.
    """

    @checked_arguments
    def __init__(
        self,
        module: type[AbstractAutoCompressionModule] | ModuleReference,
        search_space: SearchSpaceSource,
        budget: AccuracyBudget | None = None,
        storage: str | optuna.storages.BaseStorage | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
        *,
        settings: AccuracyAwareSettings | None = None,
        objective: str | None = None,
        study_name: str | None = None,
        directory: str | Path | None = None,
        artefacts: str | None = None,
        baseline: Baseline | None = None,
    ) -> None:
        self.module = module if isinstance(module, ModuleReference) else ModuleReference.of(module)
        self._runs_module = True  # the caller has named it
        self.settings = _settings(settings, sampler, budget)
        self._sampler = None if isinstance(sampler, AdaptiveCompressionSampler) else sampler
        self.study_name = study_name or self.module.class_name
        self.store = ExperimentDirectory(directory or f"autocompress-{self.study_name}")
        self._storage, self._artefacts = storage, artefacts
        self._baseline, self.confirmed = baseline, True
        self._wanted, self._needs_sampler = self._plan(search_space, objective), False
        self._mirror = DirectorySync(self.store, None if artefacts is None else Artefacts.at(artefacts))
        self._study: optuna.Study | None = None
        self._retrying: Any = None

    @classmethod
    @checked_arguments
    def open(
        cls,
        directory: str | Path | None = None,
        *,
        storage: str | optuna.storages.BaseStorage | None = None,
        study_name: str | None = None,
        module: ModuleReference | None = None,
        sampler: optuna.samplers.BaseSampler | None = None,
    ) -> CompressionStudy:
        """A study that was started before, here or elsewhere: to go on with, to read its `result`.

        Args:
            directory: where checkpoints are kept; with nothing else given it tells the storage and the name.
            storage: of the study.
            study_name: its name in the storage.
            module: where the module is on this machine; by default where it was when the study was made.
            sampler: of a study that was made with a sampler object of Optuna's, to go on with it: its options are not
                stored.

        Raises:
            StoreError: there is no such study.
            ConfigError: the directory does not name the storage, as its address has a password.
        """
        if storage is None:
            store = ExperimentDirectory(directory or ".")
            plan = ExperimentPlan.read(store)
            storage, known_name = storage_of(plan, store)
            if study_name not in (None, known_name):
                raise StoreError(
                    f"the study in {store.path} must have the given name {study_name!r}; it is {known_name!r}"
                )
            study_name = known_name
        else:
            plan = plan_of(storage, study_name)
        named = {} if sampler is not None else plan.tuner_arguments
        if named:
            sampler = named_sampler(plan.tuner, **named)
        opened = cls(
            module or ModuleReference.from_dict(plan.module),
            plan.search_space,
            storage=storage,
            sampler=sampler,
            settings=plan.settings,
            objective=plan.objective,
            study_name=study_name,
            directory=directory,
            artefacts=plan.engine_as(OptunaPlan).artefacts,
        )
        opened._runs_module = module is not None
        opened._needs_sampler = sampler is None and plan.tuner != ADAPTIVE_TUNER
        if opened._needs_sampler or named:
            opened._wanted = dataclasses.replace(opened._wanted, tuner=plan.tuner, tuner_arguments=named)
        return opened

    @classmethod
    def with_named_sampler(
        cls,
        name: str,
        module: ModuleReference,
        search_space: SearchSpaceSource,
        *,
        settings: AccuracyAwareSettings | None = None,
        **options: Any,
    ) -> CompressionStudy:
        """A study with one of Optuna's samplers by name, seeded by the settings; `open` makes the same sampler again.

        Args:
            name: of the sampler: `TPESampler`, or `TPE` for short.
            module: see `CompressionStudy`.
            search_space: see `CompressionStudy`.
            settings: all settings of the search.
            options: further arguments of `CompressionStudy`.

        Raises:
            ConfigError: no sampler has that name, or as `CompressionStudy`.
        """
        settings = settings or AccuracyAwareSettings()
        study = cls(module, search_space, sampler=named_sampler(name, settings.seed), settings=settings, **options)
        study._wanted = dataclasses.replace(study._wanted, tuner_arguments={"seed": settings.seed})
        return study

    @property
    def study(self) -> optuna.Study:
        """The Optuna study; it is made, after the preflight, when it is first read.

        Raises:
            StoreError: the storage has a study of that name with another search.
            AutoCompressError: the model cannot be measured.
        """
        return self.begin()

    def begin(self, n_trials: int | None = None) -> optuna.Study:
        """Make the study as `study` does, unless it is there.

        Args:
            n_trials: the most trials that are going to be run, for what is said of the search's length.

        Raises:
            AutoCompressError: as `study`.
        """
        if self._study is None:
            with removed_if_unused(self.store.path):
                self._study = self._opened(n_trials)
        return self._study

    @property
    def result(self) -> CompressionResult:
        """What has been found so far; verified when `optimize` has ended."""
        self._mirror.fetch_feasible(self._mirror.sync(self.study.get_trials(deepcopy=False)).records)
        return CompressionResult(self.store, self.module if self._runs_module else None)

    @checked_arguments
    def optimize(
        self,
        n_trials: Annotated[int, AT_LEAST_1] | None = None,
        n_jobs: Annotated[int, AT_LEAST_1] = 1,
        *,
        on_record: Callable[[TrialRecord], None] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> CompressionResult:
        """Search, then load the best model afresh and evaluate it. Ctrl-C ends it cleanly; call it again to go on.

        Args:
            n_trials: the most trials that this call runs; needed for samplers that do not end by themselves.
            n_jobs: how many trials run at a time.
            on_record: called with each trial that has ended, from the worker's thread.
            callbacks: called while the search runs, for other workers' trials too.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
            TrialError: nothing but failures so far.
            AutoCompressError: something is wrong with the input, the directory or the storage.
        """
        refuse_in_child("a study must not be run")
        self._runs_module = True
        if self._needs_sampler:
            raise ConfigError(
                f"sampler must be given to go on with a study of a {self._wanted.tuner} object, whose options are not "
                "stored: CompressionStudy.open(..., sampler=...)"
            )
        self.require_end(n_trials)
        self.begin(n_trials)  # its directory is there from now on
        with notify_callbacks(self.store, callbacks) as tell_end:
            self._search(n_trials, n_jobs, on_record)
            result = self.result
            best = result.verify()
            upload_artifacts(self.study, self.store, best.key)
            tell_end()
        return result

    def require_end(self, n_trials: int | None) -> None:
        """Check that there is a number of trials where the sampler does not end by itself; ConfigError if not."""
        if self._sampler is not None and n_trials is None:
            raise ConfigError(
                f"{type(self._sampler).__name__} does not end by itself: n_trials must be given (on the command line, "
                "--trials)"
            )

    def _search(self, n_trials: int | None, n_jobs: int, on_record: Callable[[TrialRecord], None] | None) -> None:
        study, plan = self.study, self._wanted
        stopping, left = threading.Event(), itertools.count()
        with ThreadPoolExecutor(max_workers=n_jobs) as pool, self._stopping(stopping):
            workers = [Worker(study, plan, self._mirror, stopping, fork_server(), on_record) for _ in range(n_jobs)]
            runs = [pool.submit(worker.run, lambda: n_trials is None or next(left) < n_trials) for worker in workers]
            for run in runs:
                run.result()

    @contextlib.contextmanager
    def _stopping(self, stopping: threading.Event) -> Iterator[None]:
        """Whatever ends the block, Ctrl-C too, ends its workers; their trials save their state."""
        seconds = self._retrying.seconds
        try:
            yield
        finally:
            self._retrying.seconds = _PATIENCE_WHEN_STOPPING
            stopping.set()
        self._retrying.seconds = seconds

    def _plan(self, search_space: SearchSpaceSource, objective: str | None) -> ExperimentPlan:
        tuner = ADAPTIVE_TUNER if self._sampler is None else type(self._sampler).__name__
        engine = OptunaPlan(self.study_name, address(self._storage), self._artefacts)
        space = load_search_space(search_space)
        return ExperimentPlan.of(self.module.to_dict(), space, self.settings, objective, tuner, engine=engine)

    def _opened(self, n_trials: int | None) -> optuna.Study:
        """The study; the model is measured before anything of a new one is written."""
        require_writable(self.store.path)
        own_file = self.store.path / STORAGE_FILE
        measured = self._measured(n_trials) if self._storage is None and not own_file.exists() else None
        storage = self._retrying = retrying(opened(self._storage or default_storage(self.store)))
        if measured is None and self.study_name not in optuna.get_all_study_names(storage):
            measured = self._measured(n_trials)
        study = optuna.create_study(
            study_name=self.study_name, storage=storage, direction="maximize", load_if_exists=True
        )
        trials = len(study.get_trials(deepcopy=False))  # before the plan is read, which is written before any trial
        known = study.user_attrs.get(PLAN)
        if known is None and (trials or study.direction is not StudyDirection.MAXIMIZE):
            raise StoreError(
                f"the study {self.study_name!r} must be one of autocompress; the one in the storage is of other code "
                f"({trials} trials, direction {study.direction.name.lower()}): give another study_name"
            )
        plan = (measured or self._measured(n_trials)) if known is None else ExperimentPlan.from_dict(known)
        if known is None:
            study.set_user_attr(PLAN, plan.to_dict())
        require_same_search(f"the study {self.study_name!r}", plan, self._wanted)
        warn_of_changes(plan, self.module.fingerprint(), _logger)
        plan = self._wanted = dataclasses.replace(plan, module=self.module.to_dict())  # where it is on this machine
        self._mirror.prepare(plan)
        if not self._needs_sampler:
            study.sampler = self._sampler or ProposalSampler(plan)
        study.pruner = AdaptiveCompressionPruner(plan.maximal_total_epochs, stages=plan.stages)
        return study

    def _measured(self, n_trials: int | None) -> ExperimentPlan:
        plan = self._wanted
        if self._baseline is not None:
            return plan.with_baseline(self._baseline, plan.engine)
        baseline = measure_in_child(
            plan.module, plan.search_space, self.store.path, plan.settings, confirmed=self.confirmed
        )
        plan = plan.with_baseline(baseline, plan.engine)
        announce(plan, _logger, length_of(plan, n_trials))
        return plan


def _settings(
    settings: AccuracyAwareSettings | None, sampler: optuna.samplers.BaseSampler | None, budget: AccuracyBudget | None
) -> AccuracyAwareSettings:
    """The settings that were given to the study, to its sampler, or to both.

    Raises:
        ConfigError: they differ, or the sampler has options that the study does not use.
    """
    own = None
    if isinstance(sampler, AdaptiveCompressionSampler):
        sampler.require_settings_only()
        own = sampler.given_settings
    elif sampler is not None and any(isinstance(each, AdaptiveCompressionSampler) for each in vars(sampler).values()):
        raise ConfigError(
            f"sampler must be an AdaptiveCompressionSampler itself, not inside of another one; got a "
            f"{type(sampler).__name__} of one, whose rates are no parameters of this study"
        )
    given = [each if budget is None else each.with_budget(budget) for each in (settings, own) if each is not None]
    if len(given) == 2 and given[0] != given[1]:
        one, other = (each.to_dict() for each in given)
        names = [f"{name} ({one[name]!r} and {other[name]!r})" for name in one if one[name] != other[name]]
        raise ConfigError(f"settings and the sampler's settings must be the same; they differ in {', '.join(names)}")
    default = AccuracyAwareSettings()
    return given[0] if given else default if budget is None else default.with_budget(budget)
