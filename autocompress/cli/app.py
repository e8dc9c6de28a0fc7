"""The commands."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from autocompress.budget import AccuracyBudget
from autocompress.cli.display import picture, watching
from autocompress.cli.outcome import INTERRUPTED, told_errors
from autocompress.cli.snapshot import take
from autocompress.cli.tables import trials_table
from autocompress.errors import ConfigError, StoreError
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

if TYPE_CHECKING:
    from autocompress.engines.nni import AutoCompressionExperiment

app = typer.Typer(
    help="Finds the highest compression rate of a PyTorch model within an accuracy budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The experiment's directory.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Port = Annotated[int | None, typer.Option(help="Port of the web page; 8080, or a free one if that is taken.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but the result.")]
_Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, causes included.")]


def main() -> None:
    """Run the command line."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(version("autocompress"))
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(
    module: Annotated[str, typer.Argument(metavar="FILE:CLASS", help="Your module, or package.module:CLASS.")],
    search_space: Annotated[Path, typer.Option(metavar="FILE", help="The search space, NNI's JSON.")],
    tuner: Annotated[str | None, typer.Option(help="AdaptiveCompression, or one of NNI's: TPE, Random, ...")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials; NNI's tuners need it.")] = None,
    max_relative_drop: Annotated[
        float | None, typer.Option(metavar="P", help="Tolerated loss in percent of the uncompressed accuracy. [1.0]")
    ] = None,
    max_absolute_drop: Annotated[
        float | None, typer.Option(metavar="X", help="Tolerated loss in the evaluator's unit, instead.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="rate, parameters, macs or size.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of every trial.")] = 0,
    port: _Port = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to keep the experiment.")] = None,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Search the highest compression rate within the budget.

    autocompress run examples/digits.py:DigitsModule --search-space search_spaces/l2.json
    """
    with told_errors(debug=debug):
        budget = _budget(max_relative_drop, max_absolute_drop)
        experiment = _new_experiment(module, out)
        experiment.config.search_space_file = search_space
        experiment.config.trial_concurrency = concurrency
        experiment.config.max_trial_number = trials
        if tuner is not None:
            experiment.config.tuner.name = tuner
        experiment.settings = experiment.settings.with_changes({"seed": seed})
        if budget is not None:
            experiment.budget = budget
        experiment.objective = objective
        _carry_out(experiment, "run", port, quiet)


@app.command()
def resume(directory: _Directory, port: _Port = None, quiet: _Quiet = False, debug: _Debug = False) -> None:
    """Go on with a search that was stopped or killed; nothing finished is trained again."""
    with told_errors(debug=debug):
        ExperimentDirectory(directory).settings()  # before NNI is imported: the commonest mistake
        from autocompress.engines.nni import AutoCompressionExperiment

        _carry_out(AutoCompressionExperiment.open(directory), "resume", port, quiet)


@app.command()
def status(directory: _Directory) -> None:
    """Show what has been found so far."""
    with told_errors():
        snapshot = take(_existing(directory))
        console = Console()
        console.print(picture(snapshot, None, sum(record.seconds for record in snapshot.records) if snapshot else 0))


@app.command()
def trials(directory: _Directory, as_json: _Json = False) -> None:
    """List all trials."""
    with told_errors():
        records = CompressionResult(_existing(directory)).records
        if as_json:
            print(json.dumps([record.to_dict() for record in records], indent=2))
        else:
            Console().print(trials_table(records))


@app.command()
def best(directory: _Directory, as_json: _Json = False) -> None:
    """Show the best model and where its checkpoint is."""
    with told_errors():
        result = CompressionResult(_existing(directory))
        if as_json:
            checkpoint = {"checkpoint": str(result.checkpoint)}
            print(json.dumps({**result.best.to_dict(), **checkpoint, **_verdict(result)}, indent=2))
        else:
            print(result.summary())


def _verdict(result: CompressionResult) -> dict[str, Any]:
    verdict = result.verdict
    if verdict is None:
        return {"verified_accuracy": None, "holdout_accuracy": None}
    return {"verified_accuracy": verdict.accuracy, "holdout_accuracy": verdict.holdout_accuracy}


def _existing(directory: Path) -> ExperimentDirectory:
    store = ExperimentDirectory(directory)
    if not store.exists():
        raise StoreError(f"{store.path} holds no experiment: experiment.json is missing")
    return store


def _budget(relative: float | None, absolute: float | None) -> AccuracyBudget | None:
    if relative is not None and absolute is not None:
        raise ConfigError(
            f"--max-relative-drop and --max-absolute-drop must not both be given; got {relative:g} and {absolute:g}"
        )
    return None if relative is None and absolute is None else AccuracyBudget(relative, absolute)


def _new_experiment(module: str, out: Path | None) -> AutoCompressionExperiment:
    from autocompress.compress.loading import ModuleReference
    from autocompress.engines.nni import AutoCompressionExperiment

    reference = ModuleReference.parse(module)
    named = f"{reference.class_name}-{datetime.now():%Y%m%d-%H%M%S}"
    return AutoCompressionExperiment(reference, "local", directory=out or Path("autocompress-out", named))


def _quieten_nni(console: Console) -> None:
    """NNI tells every step on standard output; of that only warnings are left, and ours go above the live display."""
    logging.getLogger("nni").setLevel(logging.WARNING)
    ours = logging.getLogger("nni.autocompress")
    ours.propagate = False
    ours.handlers = [RichHandler(console=console, show_time=False, show_path=False)]


def _carry_out(experiment: AutoCompressionExperiment, action: str, port: int | None, quiet: bool) -> None:
    from autocompress.engines.nni.manager import default_port

    console = Console()
    _quieten_nni(console)
    store = ExperimentDirectory(experiment.directory)
    try:
        with watching(store, console, lambda: experiment.url, quiet=quiet):
            ended = getattr(experiment, action)(default_port() if port is None else port)
        if ended is None:
            go_on = f"go on with: autocompress resume {store.path}" if store.exists() else "the search had not begun"
            print(f"stopped; {go_on}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
        print(experiment.result.summary())
    finally:
        experiment.stop()
