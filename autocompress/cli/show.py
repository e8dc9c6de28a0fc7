"""The commands that print or write what is known, and search for nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autocompress.cli import execute
from autocompress.cli.execute import errors_as_messages
from autocompress.cli.live_display import status_view
from autocompress.cli.options import (
    Algorithms,
    Debug,
    Directory,
    Json,
    Port,
    Rates,
    Target,
    required_search_space,
    search_space_of,
)
from autocompress.cli.snapshot import Snapshot, holder, take
from autocompress.cli.tables import piped_console, setting_text, trial_lines, trials_table
from autocompress.engines.base import engine_of
from autocompress.errors import AutoCompressError, ModuleError, StoreError, command
from autocompress.plain_json import shown_path
from autocompress.plan import ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.result import CompressionResult
from autocompress.search_space import load_search_space
from autocompress.store import ExperimentDirectory, Ledger, Verdict

if TYPE_CHECKING:
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.formats.export import ExportReport


def export_best(result: CompressionResult, path: Path, *, as_json: bool, trust_module: bool = False) -> str:
    """Export the best model; what is printed about it. The module's file is run, which is said on standard error.

    Raises:
        AutoCompressError: nothing is within the budget, or the model cannot be exported.
        ModuleError: the file is another than the search began with, or came with the directory, and it is not trusted.
    """
    from autocompress.compression.module_loading import ModuleReference

    recorded = result.plan.module
    if "file" in recorded:
        reference = ModuleReference.from_dict(recorded)
        if not trust_module:
            _require_own(reference, result)
        print(f"runs      {shown_path(reference.file)}", file=sys.stderr)
    report = result.export(path, trust_module=True)
    if as_json:
        return json.dumps(report.to_dict(), indent=2)
    return _export_text(report, result.baseline.measurement.bytes)


def _require_own(reference: ModuleReference, result: CompressionResult) -> None:
    """The file must be what the search measured, and not have come with the directory."""
    rule = f"the module's file {shown_path(reference.file)!r} must be"
    remedy = "where you trust it, give --trust-module"
    if Path(reference.file).resolve().is_relative_to(result.directory.path):
        raise ModuleError(f"{rule} outside of the experiment's directory, which may be another's; {remedy}")
    if reference.fingerprint() != result.baseline.fingerprint:
        raise ModuleError(f"{rule} the one that the search began with; it has changed since: {remedy}")


def _export_text(report: ExportReport, uncompressed: int) -> str:
    lines = [f"wrote     {report.path}, {report.bytes:,} bytes (uncompressed weights {uncompressed:,})"]
    if report.weights is not None:
        lines.append(f"holds     {report.weights:,} weights, {report.zeros:,} of them zero")
    if report.checked is not None:
        sizes = " and ".join(str(size) for size in report.batches)
        lines.append(f"checked   with {report.checked} on batches of {sizes}")
        kernels = report.optimized_difference
        differs = f"differs   by at most {report.max_difference:.2g} (allowed {report.tolerance:.2g})"
        lines.append(differs if kernels is None else f"{differs}, by {kernels:.2g} with onnxruntime's own kernels")
    return "\n".join(lines)


def status(directory: Directory) -> None:
    """Show whether it runs, what has been found so far, and what comes next."""
    with errors_as_messages():
        store, process = ExperimentDirectory(directory), holder(ExperimentDirectory(directory))
        snapshot = take(store)
        if snapshot is not None:
            piped_console().print(
                status_view(snapshot, _state(snapshot, store, process)), soft_wrap=True, highlight=False
            )
        elif process is not None:
            print(f"state    running (process {process}), measuring the uncompressed model")
        else:
            _existing(directory)


def trials(directory: Directory, as_json: Json = False) -> None:
    """List all trials.

    rate is what was requested, achieved what was measured; budget is how far the accuracy is inside the threshold. As
    JSON, trials whose model was loaded afresh have its verified_accuracy and holdout_accuracy as well.
    """
    with errors_as_messages():
        ledger = Ledger(_existing(directory))
        records, verdicts = ledger.records, ledger.verdicts
        if as_json:
            print(json.dumps([_with_verdict(record, verdicts.get(record.key)) for record in records], indent=2))
        elif len(records) > _MOST_WRAPPED:
            print("\n".join(trial_lines(records, verdicts)))
        else:
            table = trials_table(records, verdicts=verdicts)
            piped_console().print(table if records else "no trial has ended yet")


_MOST_WRAPPED = 1000
"""Trials whose reasons are wrapped to the terminal's width, which takes a millisecond each."""


def best(directory: Directory, as_json: Json = False) -> None:
    """Show the best model and how to load it; exit code 3 where nothing is within the budget."""
    with errors_as_messages():
        result = CompressionResult(_existing(directory))
        if as_json:
            checkpoint = {"checkpoint": str(result.checkpoint)}
            differing = {"disagreements": result.disagreements}
            print(
                json.dumps({**result.best.to_dict(), **checkpoint, **_verdict(result.verdict), **differing}, indent=2)
            )
        else:
            print(execute.result_text(result))


def view(directory: Directory, port: Port = None, debug: Debug = False) -> None:
    """Show the web page of an experiment that has ended, until Ctrl-C; nothing is run.

    Of a study on Optuna it tells the command that shows it.
    """
    with errors_as_messages(debug=debug):
        execute.serve_page(engine_of(ExperimentPlan.read(_existing(directory))), directory, port)


def report(
    directory: Directory,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page. Default: report.html in the experiment's directory.")
    ] = None,
) -> None:
    """Write what was found and how, as one HTML page that needs no network; finished or not.

    Its plots are written beside it, in plots/, as SVG and PNG.
    """
    with errors_as_messages():
        print(f"wrote {CompressionResult(_existing(directory)).report(out)}")


def export(
    directory: Directory,
    path: Target,
    trust_module: Annotated[
        bool, typer.Option("--trust-module", help="Run your module's file though it changed or lies in DIR.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the best model for other tools: PATH ends in .onnx, .pt2 or .dot, or is a directory for a state dict.

    What was written is loaded again and compared with the model. It runs the module's file that DIR names, as `resume`
    does; other commands that look at DIR do not. Example: autocompress export DIR small.onnx
    """
    with errors_as_messages(debug=debug):
        result = CompressionResult(_existing(directory))
        print(export_best(result, path, as_json=as_json, trust_module=trust_module))


def schema() -> None:
    """Print the JSON schema of NNCF-style configuration files, for editors.

    Example: autocompress schema > schema.json
    """
    from autocompress.nncf.config import CompressionConfig

    print(json.dumps(CompressionConfig.model_json_schema(), indent=2))


def settings() -> None:
    """List all settings with their defaults, what is allowed and what they do; --set NAME=VALUE changes one.

    `...` stands for the default of a key that must be given with its object.
    """
    from autocompress.setting_fields import descriptions
    from autocompress.settings import AccuracyAwareSettings

    defaults = AccuracyAwareSettings().to_dict()
    for each in descriptions(AccuracyAwareSettings):
        print(setting_text(each, defaults.get(each.name, each.default)))


def search_space(algorithm: Algorithms = None, rate: Rates = None) -> None:
    """Print the search space of --algorithm and --rate, for a file that you change and give as --search-space.

    Example: autocompress search-space --algorithm l2 --rate 0.2:0.9 > space.json
    """
    with errors_as_messages():
        space = load_search_space(required_search_space(search_space_of(algorithm, rate, None), "--algorithm"))
        print(json.dumps(space.wire, indent=2))


def _with_verdict(record: TrialRecord, verdict: Verdict | None) -> dict[str, Any]:
    return record.to_dict() if verdict is None else {**record.to_dict(), **_verdict(verdict)}


def _verdict(verdict: Verdict | None) -> dict[str, Any]:
    if verdict is None:
        return {"verified_accuracy": None, "holdout_accuracy": None}
    return {"verified_accuracy": verdict.accuracy, "holdout_accuracy": verdict.holdout_accuracy}


def _state(snapshot: Snapshot, store: ExperimentDirectory, process: int | None) -> str:
    ended = snapshot.ended and (snapshot.verdict is not None or snapshot.best is None)
    if ended and process is not None:
        return f"ended; process {process} still shows its page"
    if ended:
        return "ended"
    if process is not None:
        return f"running (process {process})"
    try:
        plan = ExperimentPlan.read(store)
        helping = engine_of(plan).owners(plan, store.path) if plan.engine and plan.engine.has_workers else []
    except AutoCompressError as error:
        return f"not run from here; whether by workers is not known: {error}"
    if helping:
        return f"run by workers ({', '.join(helping)})"
    return f"not running; go on with: {command('autocompress', 'resume', store.path)}"


def _existing(directory: Path) -> ExperimentDirectory:
    store = ExperimentDirectory(directory)
    if not store.exists():
        raise StoreError(f"{store.path} holds no experiment: experiment.json is missing")
    return store
