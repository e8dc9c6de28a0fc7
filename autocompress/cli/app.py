"""The commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from autocompress.cli import launch
from autocompress.cli.check import checks_table, tried
from autocompress.cli.compare import print_comparison, told_outcome
from autocompress.cli.holder import holder
from autocompress.cli.launch import new_directory
from autocompress.cli.on_nni import new_experiment, old_experiment
from autocompress.cli.on_optuna import new_study, old_study, workers
from autocompress.cli.outcome import told_errors
from autocompress.cli.picture import still
from autocompress.cli.shipping import ship
from autocompress.cli.snapshot import Snapshot, take
from autocompress.cli.tables import trials_table
from autocompress.compare.names import DEFAULT_TUNERS
from autocompress.errors import AutoCompressError, ConfigError, StoreError, unknown_name
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

_PIPED_WIDTH = 1000
_EXAMPLES = """\b
Examples:
  autocompress run digits.py:DigitsModule --search-space l2.json
  autocompress run digits.py:DigitsModule --search-space l2.json \\
      --max-absolute-drop 0.005 --out digits-small
  autocompress run digits.py:DigitsModule --search-space pruners.json \\
      --tuner TPE --trials 30 --objective macs
"""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_Module = Annotated[str, typer.Argument(metavar="FILE:CLASS", help="Your module, or package.module:CLASS.")]
_Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The experiment's directory.")]
_Path = Annotated[Path, typer.Argument(metavar="PATH", help="The file, or the directory, to write.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port of the web page on 127.0.0.1. Default: 8080, if taken a free one."),
]
_Storage = Annotated[
    str | None, typer.Option(metavar="URL", help="Optuna's storage. Default: a SQLite file in the directory.")
]
_Study = Annotated[str | None, typer.Option(metavar="NAME", help="Optuna's study. Default: the class' name.")]
_Artefacts = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Where workers on other machines find checkpoints; any fsspec address."),
]
_RelativeDrop = Annotated[
    float | None, typer.Option(metavar="P", help="Tolerated loss in percent of the uncompressed accuracy. [1.0]")
]
_AbsoluteDrop = Annotated[
    float | None, typer.Option(metavar="X", help="Tolerated loss in the evaluator's unit, instead.")
]
_Objective = Annotated[
    str | None,
    typer.Option(help="Trials are compared by: rate (one algorithm), size (several), parameters, macs, latency."),
]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but the result.")]
_Track = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=WHERE", help="Tell tensorboard=DIR, mlflow=URI or wandb=PROJECT; more than once."),
]
_Debug = Annotated[bool, typer.Option("--debug", help="Print the traceback of an error, causes included.")]


def main() -> None:
    """Run the command line."""
    app(prog_name="autocompress")


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
    """Finds the highest compression rate of a PyTorch model within an accuracy budget.

    Exit codes: 0 found, 2 bad input, 3 nothing within the budget, 130 interrupted, 1 anything else.
    """


@app.command(epilog=_EXAMPLES)
def run(
    module: _Module,
    search_space: Annotated[Path, typer.Option(metavar="FILE", help="The search space, NNI's JSON.")],
    tuner: Annotated[str | None, typer.Option(help="AdaptiveCompression (default), or NNI's TPE, Random, ...")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials; NNI's tuners need it.")] = None,
    max_relative_drop: _RelativeDrop = None,
    max_absolute_drop: _AbsoluteDrop = None,
    objective: _Objective = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of every trial.")] = 0,
    port: _Port = None,
    engine: Annotated[str, typer.Option(help="nni, or optuna: without a web page, on any storage.")] = "nni",
    storage: _Storage = None,
    study: _Study = None,
    artefacts: _Artefacts = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to keep it. Default: autocompress-out/<class>-<time>.")
    ] = None,
    track: _Track = None,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Search the highest compression rate within the budget.

    It ends by itself. Ctrl-C stops it cleanly, and `autocompress resume DIR` goes on.
    """
    with told_errors(debug=debug):
        budget = launch.tolerated(max_relative_drop, max_absolute_drop)
        wishes = launch.Wishes(search_space, tuner, trials, budget, objective, concurrency, seed)
        launch.carry_out(
            _new(engine, module, out, wishes, port, (storage, study, artefacts)), quiet=quiet, trackers=track or ()
        )


@app.command()
def resume(
    directory: _Directory,
    port: _Port = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many more trials (optuna).")] = None,
    track: _Track = None,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Go on with a search that was stopped or killed; nothing finished is trained again.

    Example: autocompress resume autocompress-out/DigitsModule-20260102-030405
    """
    with told_errors(debug=debug):
        engine = ExperimentDirectory(directory).settings()["engine"].get("name")  # before an engine is imported
        optuna = engine == "optuna"
        search = old_study(directory, trials=trials) if optuna else old_experiment(directory, port)
        launch.carry_out(search, quiet=quiet, trackers=track or ())


@app.command()
def worker(
    storage: Annotated[str, typer.Option(metavar="URL", help="Optuna's storage, reached by all workers.")],
    study: Annotated[str, typer.Option(metavar="NAME", help="The study in it.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Its directory, or one of this machine's own where it has --artefacts.")
    ],
    module: Annotated[
        str | None, typer.Option(metavar="FILE:CLASS", help="Your module, where it is elsewhere on this machine.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Help with a study that has begun; may be started and killed at any time.

    Example: autocompress worker --storage postgresql://host/db --study DigitsModule --out /shared/digits
    """
    with told_errors(debug=debug):
        found = old_study(out, storage, study, module, trials=trials, jobs=concurrency, alone=False)
        launch.carry_out(found, quiet=quiet)


@app.command()
def status(directory: _Directory) -> None:
    """Show whether it runs, what has been found so far, and what comes next."""
    with told_errors():
        store, process = ExperimentDirectory(directory), holder(ExperimentDirectory(directory))
        snapshot = take(store)
        if snapshot is not None:
            _console().print(still(snapshot, _state(snapshot, store, process)), soft_wrap=True, highlight=False)
        elif process is not None:
            print(f"state    running (process {process}), measuring the uncompressed model")
        else:
            _existing(directory)


@app.command()
def trials(directory: _Directory, as_json: _Json = False) -> None:
    """List all trials.

    rate is what was requested, achieved what was measured; budget is how far the accuracy is inside the threshold.
    """
    with told_errors():
        records = CompressionResult(_existing(directory)).records
        if as_json:
            print(json.dumps([record.to_dict() for record in records], indent=2))
        else:
            _console().print(trials_table(records) if records else "no trial has ended yet")


@app.command()
def best(directory: _Directory, as_json: _Json = False) -> None:
    """Show the best model and how to load it; exit code 3 where nothing is within the budget."""
    with told_errors():
        result = CompressionResult(_existing(directory))
        if as_json:
            checkpoint = {"checkpoint": str(result.checkpoint)}
            print(json.dumps({**result.best.to_dict(), **checkpoint, **_verdict(result)}, indent=2))
        else:
            print(launch.told(result))


@app.command()
def check(
    module: _Module,
    search_space: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Try its algorithms. Default: every algorithm on all layers.")
    ] = None,
    as_json: _Json = False,
    debug: _Debug = False,
) -> None:
    """Try algorithms on your model before any search: what applies, and what it would remove, untrained.

    Exit code 2 where an algorithm of the search space does not apply.
    """
    with told_errors(debug=debug):
        found = tried(module, search_space)
        if as_json:
            print(json.dumps([each.to_dict() for each in found], indent=2))
        else:
            _console().print(checks_table(found))
    if search_space is not None and not all(each.applies for each in found):
        raise typer.Exit(2)


@app.command()
def export(directory: _Directory, path: _Path, as_json: _Json = False, debug: _Debug = False) -> None:
    """Write the best model for other tools: PATH ends in .onnx, .pt2 or .dot, or is a directory for a state dict.

    What was written is loaded again and compared with the model. Example: autocompress export DIR small.onnx
    """
    with told_errors(debug=debug):
        print(ship(CompressionResult(_existing(directory)), path, as_json=as_json))


@app.command()
def compare(
    module: _Module,
    search_space: Annotated[Path, typer.Option(metavar="FILE", help="The search space, NNI's JSON.")],
    tuners: Annotated[
        str,
        typer.Option(help="adaptive; NNI's tpe, random, grid, evolution, ...; Optuna's as optuna-tpe, optuna-gp, ..."),
    ] = ",".join(DEFAULT_TUNERS),
    seeds: Annotated[int, typer.Option(min=1, help="Each tuner searches once with each of so many seeds.")] = 3,
    trials: Annotated[int, typer.Option(min=1, help="At most so many trials of each search.")] = 20,
    max_relative_drop: _RelativeDrop = None,
    max_absolute_drop: _AbsoluteDrop = None,
    objective: _Objective = None,
    engine: Annotated[
        str, typer.Option(help="in-process, or nni: NNI's tuners as real NNI experiments.")
    ] = "in-process",
    jobs: Annotated[int | None, typer.Option(min=1, help="Searches at a time. Default: one for each core.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to keep it; the same one again goes on with it.")
    ] = None,
    as_json: _Json = False,
    quiet: _Quiet = False,
    debug: _Debug = False,
) -> None:
    """Let tuners search the same and compare what they reach, after how much training.

    Writes comparison.json, comparison.html and plots/. Ctrl-C stops it; the same command with the same --out goes on.
    """
    with told_errors(debug=debug):
        from autocompress.compare.comparing import compare_tuners
        from autocompress.compress.loading import ModuleReference

        reference = ModuleReference.parse(module)
        home = new_directory(reference, out)
        found = compare_tuners(
            reference,
            search_space,
            tuners,
            budget=launch.tolerated(max_relative_drop, max_absolute_drop),
            objective=objective,
            seeds=seeds,
            trials=trials,
            directory=home,
            engine=engine,
            jobs=jobs,
            on_outcome=None if quiet or as_json else lambda outcome: print(told_outcome(outcome), flush=True),
        )
        if as_json:
            print(json.dumps(found.to_dict(), indent=2))
            return
        print_comparison(found, _console())
        print(f"wrote {home / 'comparison.html'}")


@app.command()
def report(
    directory: _Directory,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page. Default: report.html in the experiment's directory.")
    ] = None,
) -> None:
    """Write what was found and how, as one HTML page that needs no network; finished or not.

    Its plots are written beside it, in plots/, as SVG and PNG.
    """
    with told_errors():
        print(f"wrote {CompressionResult(_existing(directory)).report(out)}")


def _new(
    engine: str,
    module: str,
    out: Path | None,
    wishes: launch.Wishes,
    port: int | None,
    shared: tuple[str | None, str | None, str | None],
) -> launch.Search:
    if engine == "optuna":
        return new_study(module, out, wishes, *shared)
    if engine != "nni":
        raise ConfigError(unknown_name("engine", engine, ("nni", "optuna")))
    if any(each is not None for each in shared):
        raise ConfigError("--storage, --study and --artefacts are for --engine optuna; the engine is nni")
    return new_experiment(module, out, wishes, port)


def _verdict(result: CompressionResult) -> dict[str, Any]:
    verdict = result.verdict
    if verdict is None:
        return {"verified_accuracy": None, "holdout_accuracy": None}
    return {"verified_accuracy": verdict.accuracy, "holdout_accuracy": verdict.holdout_accuracy}


def _state(snapshot: Snapshot, store: ExperimentDirectory, process: int | None) -> str:
    if process is not None:
        return f"running (process {process})"
    if snapshot.ended and (snapshot.verdict is not None or snapshot.best is None):
        return "ended"
    try:
        helping = workers(store)
    except AutoCompressError as error:
        return f"not run from here; whether by workers is not known: {error}"
    if helping:
        return f"run by workers ({', '.join(helping)})"
    return f"not running; go on with: autocompress resume {store.path}"


def _existing(directory: Path) -> ExperimentDirectory:
    store = ExperimentDirectory(directory)
    if not store.exists():
        raise StoreError(f"{store.path} holds no experiment: experiment.json is missing")
    return store


def _console() -> Console:
    """Standard output; where it is no terminal, nothing is cut or wrapped."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
