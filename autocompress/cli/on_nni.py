"""Searches on NNI. NNI is imported only when called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from autocompress.cli.execute import Wishes, new_directory, quieten

if TYPE_CHECKING:
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.tracking import Callback


@dataclass
class NniSearch:
    """An experiment that is to be run or resumed. Implements `execute.Search`.

    Attributes:
        experiment: the search.
        action: "run" or "resume".
        port: of the web page; None for 8080, or a free one where that is taken.
    """

    experiment: AutoCompressionExperiment
    action: str
    port: int | None

    def follow(self, callbacks: list[Callback]) -> None:
        """See `execute.Search`."""
        self.experiment.callbacks = callbacks

    @property
    def trials(self) -> int | None:
        """See `execute.Search`."""
        most: int | None = self.experiment.config.max_trial_number
        return most

    @property
    def directory(self) -> Path:
        """See `execute.Search`."""
        return self.experiment.directory

    @property
    def url(self) -> str | None:
        """See `execute.Search`."""
        return self.experiment.url

    def run(self, console: Console) -> bool:
        """See `execute.Search`."""
        from autocompress.engines.nni.manager import default_port

        quieten("nni.autocompress", "nni", console)
        port = default_port() if self.port is None else self.port
        return getattr(self.experiment, self.action)(port) is not None

    def stop(self) -> None:
        """See `execute.Search`."""
        self.experiment.stop()


def new_experiment(module: str, out: Path | None, wishes: Wishes, port: int | None) -> NniSearch:
    """The experiment that was asked for, not yet checked.

    Raises:
        AutoCompressError: there is no such module file, or a setting breaks a rule.
    """
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.search_space import load_search_space

    reference = ModuleReference.parse(module)
    experiment = AutoCompressionExperiment(reference, "local", directory=new_directory(reference, out))
    experiment.config.search_space = load_search_space(wishes.search_space).wire
    experiment.config.trial_concurrency = wishes.concurrency
    experiment.config.max_trial_number = wishes.trials
    if wishes.tuner is not None:
        experiment.config.tuner.name = wishes.tuner
    experiment.settings = wishes.settings.with_changes({"seed": wishes.seed})
    if wishes.budget is not None:
        experiment.budget = wishes.budget
    experiment.objective, experiment.confirmed = wishes.objective, wishes.yes
    return NniSearch(experiment, "run", port)


def old_experiment(directory: Path, port: int | None) -> NniSearch:
    """The experiment in a directory, to be resumed.

    Raises:
        StoreError: there is none.
    """
    from autocompress.engines.nni import AutoCompressionExperiment

    return NniSearch(AutoCompressionExperiment.open(directory), "resume", port)


@dataclass
class Page:
    """The web page of an experiment that has ended.

    Attributes:
        experiment: whose manager serves it.
        url: its address.
    """

    experiment: AutoCompressionExperiment
    url: str

    def close(self) -> None:
        """End it."""
        self.experiment.stop()


def old_page(directory: Path, port: int | None) -> Page:
    """Serve the web page of the experiment in a directory.

    Raises:
        AutoCompressError: there is none, it is running, or its manager does not start.
    """
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.engines.nni.manager import default_port

    experiment = AutoCompressionExperiment.open(directory)
    quieten("nni.autocompress", "nni", Console(quiet=True))
    experiment.view(default_port() if port is None else port, non_blocking=True)
    return Page(experiment, str(experiment.url))
