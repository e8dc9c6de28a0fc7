"""NNI as an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocompress.engines.base import SearchRequest, require_options
from autocompress.engines.nni.builtin_tuners import require_tuner
from autocompress.engines.nni.experiment import AutoCompressionExperiment
from autocompress.plan import ExperimentPlan
from autocompress.result import CompressionResult
from autocompress.search_space import load_search_space
from autocompress.tracking import Callback


@dataclass
class NniSearch:
    """An experiment to run or resume. Implements `base.Search`."""

    experiment: AutoCompressionExperiment  # the search
    action: Literal["run", "resume"]  # what is to be done
    port: int | None  # of the web page; None for 8080, or a free one where that is taken

    @property
    def directory(self) -> Path:
        """Where it is kept."""
        return self.experiment.directory

    @property
    def url(self) -> str | None:
        """Its web page; None while it is not running."""
        return self.experiment.url

    @property
    def trials(self) -> int | None:
        """The most that are run; None for as many as it takes."""
        most: int | None = self.experiment.config.max_trial_number
        return most

    @property
    def result(self) -> CompressionResult:
        """What has been found so far."""
        return self.experiment.result

    def run(self, callbacks: Sequence[Callback] = ()) -> bool:
        """Run to its end; False where it was interrupted."""
        self.experiment.callbacks = list(callbacks)
        return getattr(self.experiment, self.action)(self.port) is not None

    def stop(self) -> None:
        """End its manager and its trials."""
        self.experiment.stop()


class NniEngine:
    """Implements `base.Engine`."""

    name = "nni"
    logger, framework_logger = "nni.autocompress", "nni"
    create_options: tuple[str, ...] = ("port",)
    open_options: tuple[str, ...] = ("port",)

    def create(self, request: SearchRequest) -> NniSearch:
        """A new experiment."""
        options = require_options(self, self.create_options, request.options)
        experiment = AutoCompressionExperiment(request.importable, "local", directory=request.directory)
        experiment.config.search_space = load_search_space(request.search_space).wire
        experiment.config.trial_concurrency = request.concurrency
        experiment.config.max_trial_number = request.trials
        if request.tuner is not None:
            experiment.config.tuner.name = require_tuner(request.tuner)
        experiment.settings, experiment.objective = request.settings, request.objective
        experiment.confirmed, experiment.baseline = request.confirmed, request.baseline
        return NniSearch(experiment, "run", options.get("port"))

    def open(self, directory: Path, *, trials: int | None = None, **options: Any) -> NniSearch:
        """The experiment in a directory, to be resumed."""
        known = require_options(self, self.open_options, options)
        experiment = AutoCompressionExperiment.open(directory)
        if trials is not None:
            experiment.config.max_trial_number = len(experiment.result.records) + trials
        return NniSearch(experiment, "resume", known.get("port"))

    def show(self, directory: Path, **options: Any) -> NniSearch:
        """The web page of an experiment that has ended, served until `stop`."""
        search = self.open(directory, **options)
        search.experiment.view(search.port, non_blocking=True)
        return search

    def owners(self, plan: ExperimentPlan, directory: Path) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """None are recorded: the holder of the directory's lock runs the trials."""
        return []


ENGINE = NniEngine()
