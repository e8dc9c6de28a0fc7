"""Optuna as an engine: searches that are studies on any storage."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, require_options
from autocompress.engines.optuna.directory_sync import ARTIFACTS
from autocompress.engines.optuna.storage import STORAGE_FILE, default_storage, found_study, plan_of, storage_of
from autocompress.engines.optuna.study import CompressionStudy
from autocompress.engines.optuna.worker import owners
from autocompress.errors import command
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan
from autocompress.registry import load_if_unknown
from autocompress.result import CompressionResult
from autocompress.search_space.space import algorithm_names
from autocompress.store import ExperimentDirectory
from autocompress.tracking import Callback


@dataclass
class OptunaSearch:
    """A study that is to be begun or gone on with. Implements `base.Search`.

    Attributes:
        study: the search.
        trials: the most trials of this run; 0 to verify only; None for as many as it takes.
        concurrency: trials at a time.
        alone: whether to lock the directory; workers share it.
    """

    study: CompressionStudy
    trials: int | None
    concurrency: int
    alone: bool = True
    _started: bool = field(default=False, init=False)

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return self.study.store.path

    @property
    def url(self) -> str | None:
        """It has no page: empty once it has started."""
        return "" if self._started else None

    @property
    def result(self) -> CompressionResult:
        """What has been found so far."""
        return self.study.result

    def run(self, callbacks: Sequence[Callback] = ()) -> bool:
        """Run to its end; Ctrl-C is raised."""
        with self.study.store.locked() if self.alone else contextlib.nullcontext():
            self.study.require_end(self.trials)
            self.study.begin(self.trials)
            self._started = True
            if self.trials == 0:
                self.study.result.verify()
            else:
                self.study.optimize(self.trials, self.concurrency, callbacks=callbacks)
        return True

    def stop(self) -> None:
        """Does nothing: `run` leaves no process."""


class OptunaEngine:
    """Implements `base.Engine`."""

    name = "optuna"
    logger, framework_logger = "autocompress.optuna", "optuna"
    create_options: tuple[str, ...] = ("storage", "study", "artefacts")
    open_options: tuple[str, ...] = ("storage", "study", "module", "concurrency", "alone")

    def create(self, request: SearchRequest) -> OptunaSearch:
        """A new study, or one of the same search on the same storage."""
        options = require_options(self, self.create_options, request.options)
        adaptive = request.tuner is None or request.tuner.lower() == ADAPTIVE_TUNER.lower()
        make = CompressionStudy if adaptive else partial(CompressionStudy.with_named_sampler, str(request.tuner))
        study = make(
            request.importable,
            request.search_space,
            storage=options.get("storage"),
            settings=request.settings,
            objective=request.objective,
            study_name=options.get("study"),
            directory=request.directory,
            artefacts=options.get("artefacts"),
            baseline=request.baseline,
        )
        study.confirmed = request.confirmed
        return OptunaSearch(study, request.trials, request.concurrency)

    def open(self, directory: Path | None, *, trials: int | None = None, **options: Any) -> OptunaSearch:
        """A study that has begun, by its directory or by its storage and name."""
        known = require_options(self, self.open_options, options)
        storage, name, module = known.get("storage"), known.get("study"), known.get("module")
        if storage is not None:  # a worker's: whoever opens a directory has read its plan
            plan = plan_of(storage, name)
            load_if_unknown(algorithm_names(plan.search_space), (module or ModuleReference.from_dict(plan.module)).load)
        study = CompressionStudy.open(directory, storage=storage, study_name=name, module=module)
        return OptunaSearch(study, trials, known.get("concurrency", 1), known.get("alone", True))

    def show(self, directory: Path, **options: Any) -> str:
        """The command that shows a study in optuna-dashboard, artefacts included."""
        require_options(self, (), options)
        store = ExperimentDirectory(directory)
        storage, _ = storage_of(ExperimentPlan.read(store), store)
        return command("optuna-dashboard", storage, "--artifact-dir", store.path / ARTIFACTS)

    def owners(self, plan: ExperimentPlan, directory: Path) -> list[str]:
        """The processes that run its trials, as its storage knows them."""
        store = ExperimentDirectory(directory)
        storage, name = storage_of(plan, store)
        if storage == default_storage(store) and not (store.path / STORAGE_FILE).exists():
            return []  # it was in the memory of a process
        return owners(found_study(storage, name).get_trials(deepcopy=False))


ENGINE = OptunaEngine()
