"""Searches on Optuna, which is imported only when called."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from autocompress.cli.execute import Wishes, new_directory, quieten
from autocompress.plan import ExperimentPlan, OptunaEngine
from autocompress.store import ExperimentDirectory

if TYPE_CHECKING:
    from autocompress.engines.optuna.study import CompressionStudy
    from autocompress.tracking import Callback


@dataclass
class OptunaSearch:
    """A study that is to be gone on with. Implements `execute.Search`.

    Attributes:
        study: the search.
        trials: the most trials; None for as many as it takes.
        jobs: trials at a time.
        alone: whether nobody else may launch from its directory; workers may.
    """

    study: CompressionStudy
    trials: int | None
    jobs: int
    alone: bool = True
    _started: bool = field(default=False, init=False)
    _callbacks: list[Callback] = field(default_factory=list, init=False)

    def follow(self, callbacks: list[Callback]) -> None:
        """See `execute.Search`."""
        self._callbacks = callbacks

    @property
    def directory(self) -> Path:
        """See `execute.Search`."""
        return self.study.store.path

    @property
    def url(self) -> str | None:
        """See `execute.Search`: it has no page."""
        return "" if self._started else None

    def run(self, console: Console) -> bool:
        """See `execute.Search`."""
        quieten("autocompress.optuna", "optuna", console)
        with self.study.store.locked() if self.alone else contextlib.nullcontext():
            self.study.begin(self.trials)
            self._started = True
            self.study.optimize(self.trials, self.jobs, callbacks=self._callbacks)
        return True

    def stop(self) -> None:
        """See `execute.Search`: nothing is left."""


def new_study(
    module: str, out: Path | None, wishes: Wishes, storage: str | None, name: str | None, artefacts: str | None
) -> OptunaSearch:
    """The study that was asked for, not yet checked against the model.

    Raises:
        AutoCompressError: there is no such module file, or a setting breaks a rule.
    """
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.engines.optuna.storage import named_sampler
    from autocompress.engines.optuna.study import CompressionStudy
    from autocompress.plan import ADAPTIVE_TUNER

    reference = ModuleReference.parse(module)
    adaptive = wishes.tuner is None or wishes.tuner.lower() == ADAPTIVE_TUNER.lower()
    study = CompressionStudy(
        reference,
        wishes.search_space,
        wishes.budget,
        storage,
        None if adaptive else named_sampler(str(wishes.tuner), wishes.seed),
        settings=wishes.settings.with_changes({"seed": wishes.seed}),
        objective=wishes.objective,
        study_name=name,
        directory=new_directory(reference, out),
        artefacts=artefacts,
    )
    study.confirmed = wishes.yes
    return OptunaSearch(study, wishes.trials, wishes.concurrency)


def old_study(
    directory: Path | None,
    storage: str | None = None,
    name: str | None = None,
    module: str | None = None,
    *,
    trials: int | None = None,
    jobs: int = 1,
    alone: bool = True,
) -> OptunaSearch:
    """A study that has begun, by its directory or its storage and name.

    Raises:
        AutoCompressError: there is none, or it cannot be told from the directory.
    """
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.engines.optuna.study import CompressionStudy

    reference = None if module is None else ModuleReference.parse(module)
    study = CompressionStudy.open(directory, storage=storage, study_name=name, module=reference)
    return OptunaSearch(study, trials, jobs, alone)


def workers(store: ExperimentDirectory) -> list[str]:
    """The processes that run trials of an experiment, if it is a study, as its storage tells: `process 12 on host`.

    Raises:
        AutoCompressError: the storage cannot be asked.
    """
    plan = ExperimentPlan.read(store)
    return _owners(plan, store) if isinstance(plan.engine, OptunaEngine) else []


def _owners(plan: ExperimentPlan, store: ExperimentDirectory) -> list[str]:
    from autocompress.engines.optuna.dead_trials import owners
    from autocompress.engines.optuna.storage import STORAGE_FILE, default_storage, found_study, told_storage

    storage, name = told_storage(plan, store)
    if storage == default_storage(store) and not (store.path / STORAGE_FILE).exists():
        return []  # it was in the memory of a process
    return owners(found_study(storage, name).get_trials(deepcopy=False))


def dashboard_command(directory: Path) -> str:
    """The command that shows a study in optuna-dashboard, artefacts included.

    Raises:
        AutoCompressError: the directory does not tell its storage.
    """
    from autocompress.engines.optuna.directory_sync import SHOWN
    from autocompress.engines.optuna.storage import told_storage

    store = ExperimentDirectory(directory)
    storage, _ = told_storage(ExperimentPlan.read(store), store)
    return shlex.join(["optuna-dashboard", storage, "--artifact-dir", str(store.path / SHOWN)])
