"""Carrying out a search: the experiment, the display around it, and how it ends. Imports NNI only when called."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.logging import RichHandler

from autocompress.budget import AccuracyBudget
from autocompress.cli.display import watching
from autocompress.cli.outcome import INTERRUPTED, Interrupts
from autocompress.errors import ConfigError
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

if TYPE_CHECKING:
    from autocompress.engines.nni import AutoCompressionExperiment


@dataclass(frozen=True)
class Wishes:
    """What `run` was asked for; None leaves the default."""

    search_space: Path
    tuner: str | None
    trials: int | None
    budget: AccuracyBudget | None
    objective: str | None
    concurrency: int
    seed: int


def tolerated(relative: float | None, absolute: float | None) -> AccuracyBudget | None:
    """The budget of the two options; None where neither is given.

    Raises:
        ConfigError: both are given, or the one given is negative or not finite.
    """
    if relative is not None and absolute is not None:
        raise ConfigError(
            f"--max-relative-drop and --max-absolute-drop must not both be given; got {relative:g} and {absolute:g}"
        )
    return None if relative is None and absolute is None else AccuracyBudget(relative, absolute)


def new_experiment(module: str, out: Path | None, wishes: Wishes) -> AutoCompressionExperiment:
    """The experiment that was asked for, not yet checked.

    Raises:
        AutoCompressError: there is no such module file, or a setting breaks a rule.
    """
    from autocompress.compress.loading import ModuleReference
    from autocompress.engines.nni import AutoCompressionExperiment

    reference = ModuleReference.parse(module)
    named = f"{reference.class_name}-{datetime.now():%Y%m%d-%H%M%S}"
    experiment = AutoCompressionExperiment(reference, "local", directory=out or Path("autocompress-out", named))
    experiment.config.search_space_file = wishes.search_space
    experiment.config.trial_concurrency = wishes.concurrency
    experiment.config.max_trial_number = wishes.trials
    if wishes.tuner is not None:
        experiment.config.tuner.name = wishes.tuner
    experiment.settings = experiment.settings.with_changes({"seed": wishes.seed})
    if wishes.budget is not None:
        experiment.budget = wishes.budget
    experiment.objective = wishes.objective
    return experiment


def carry_out(experiment: AutoCompressionExperiment, action: str, port: int | None, *, quiet: bool) -> None:
    """Run or resume the experiment to its end and print the result.

    Args:
        experiment: the search.
        action: "run" or "resume".
        port: of the web page; None for 8080, or a free one where that is taken.
        quiet: print nothing but the result.

    Raises:
        AutoCompressError: as the experiment does.
        typer.Exit: Ctrl-C; how to go on has been printed.
    """
    store = ExperimentDirectory(experiment.directory)
    with _nothing_left_behind(store):
        if not _ends_by_itself(experiment, store, action, port, quiet):
            go_on = f"go on with: autocompress resume {store.path}" if store.exists() else "the search had not begun"
            print(f"stopped; {go_on}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
    print(told(CompressionResult(store)))


def told(result: CompressionResult) -> str:
    """The result's summary and how to load the model.

    Raises:
        InfeasibleBudgetError: nothing stayed within the budget.
    """
    return f'{result.summary()}\nload it     autocompress.load_compressed("{result.checkpoint}")'


def _ends_by_itself(
    experiment: AutoCompressionExperiment, store: ExperimentDirectory, action: str, port: int | None, quiet: bool
) -> bool:
    from autocompress.engines.nni.manager import default_port

    console, interrupts = Console(), Interrupts()
    _quieten_nni(console)
    with interrupts.counted():
        try:
            with watching(store, console, lambda: experiment.url, quiet=quiet, stopping=lambda: interrupts.count > 0):
                return getattr(experiment, action)(default_port() if port is None else port) is not None
        except KeyboardInterrupt:
            return False
        finally:
            experiment.stop()


def _quieten_nni(console: Console) -> None:
    """NNI tells every step on standard output; of that only warnings are left, and ours go above the live display."""
    logging.getLogger("nni").setLevel(logging.WARNING)
    ours = logging.getLogger("nni.autocompress")
    ours.propagate = False
    ours.handlers = [RichHandler(console=console, show_time=False, show_path=False)]


@contextlib.contextmanager
def _nothing_left_behind(store: ExperimentDirectory) -> Iterator[None]:
    """A directory made for a search that never began holds the lock's file only, and goes."""
    new = not store.path.exists()
    try:
        yield
    finally:
        if new and store.path.is_dir() and [entry.name for entry in store.path.iterdir()] in ([], [".lock"]):
            (store.path / ".lock").unlink(missing_ok=True)
            store.path.rmdir()
