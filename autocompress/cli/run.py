"""The commands that run something."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from autocompress.cli import execute
from autocompress.cli.execute import INTERRUPTED, errors_as_messages, new_directory
from autocompress.cli.options import (
    AbsoluteDrop,
    Algorithms,
    Artefacts,
    Assignments,
    Config,
    Debug,
    Directory,
    EngineName,
    Json,
    Module,
    NoPreflight,
    Objective,
    Out,
    Port,
    Quiet,
    Rates,
    RelativeDrop,
    SearchSpaceFile,
    Storage,
    Study,
    Track,
    Yes,
    assigned,
    required_search_space,
    search_space_of,
    settings_of,
)
from autocompress.cli.tables import (
    check_algorithms,
    checks_table,
    layers_left_alone,
    outcome_line,
    piped_console,
    print_comparison,
    reasons_against,
)
from autocompress.compare.one_search import DEFAULT_TUNERS
from autocompress.engines.base import SearchRequest, engine_named, engine_of
from autocompress.errors import ConfigError, command
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan
from autocompress.registry import load_if_unknown
from autocompress.search_space import load_search_space
from autocompress.search_space.space import algorithm_names
from autocompress.store import ExperimentDirectory

_DEMO = "autocompress.demo:DigitsModule"


def demo(
    algorithm: Algorithms = None,
    rate: Rates = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials.")] = None,
    max_relative_drop: RelativeDrop = None,
    assignments: Assignments = None,
    port: Port = None,
    engine: EngineName = "nni",
    out: Out = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Try it: compress a small CNN on handwritten digits; about a minute, needs no files and no network.

    By default with the algorithm l2, which removes filters. The data are scikit-learn's, the network is trained first.
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        reference = ModuleReference.parse(_DEMO)
    directory = new_directory(reference, out)
    run(
        _DEMO,
        algorithm=algorithm or ["l2"],
        rate=rate,
        trials=trials,
        max_relative_drop=max_relative_drop,
        assignments=assignments,
        port=port,
        engine=engine,
        out=directory,
        quiet=quiet,
        debug=debug,
    )
    if not quiet:
        print(f"\n{_next_steps(directory, Path(reference.file))}")


def _next_steps(directory: Path, module: Path) -> str:
    export = command("autocompress", "export", directory, "small.pt2")
    return f"""\
report      {command("autocompress", "report", directory)}
all trials  {command("autocompress", "trials", directory)}
export      {export}   (small.onnx needs: pip install "autocompress[onnx]")
your model  {command("cp", module, "my_module.py")}   (then put in your model, evaluator and trainer)
            autocompress check my_module.py:DigitsModule
            autocompress run my_module.py:DigitsModule --algorithm l2 --max-relative-drop 1"""


def run(
    module: Module,
    algorithm: Algorithms = None,
    rate: Rates = None,
    search_space: SearchSpaceFile = None,
    config: Config = None,
    tuner: Annotated[str | None, typer.Option(help="AdaptiveCompression (default), or NNI's TPE, Random, ...")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials; NNI's tuners need it.")] = None,
    max_relative_drop: RelativeDrop = None,
    max_absolute_drop: AbsoluteDrop = None,
    yes: Yes = False,
    assignments: Assignments = None,
    no_preflight: NoPreflight = False,
    objective: Objective = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of every trial. Default: 0.")] = None,
    port: Port = None,
    engine: EngineName = "nni",
    storage: Storage = None,
    study: Study = None,
    artefacts: Artefacts = None,
    out: Out = None,
    track: Track = None,
    keep_page: Annotated[
        bool, typer.Option("--keep-page", help="Leave NNI's web page up at the end, until Ctrl-C.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search the highest compression rate within the budget.

    It ends by itself. Ctrl-C stops it cleanly, and `autocompress resume DIR` goes on.
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        reference, chosen = ModuleReference.parse(module), engine_named(engine)
        space = search_space_of(algorithm, rate, search_space, config, module=reference)
        settings = settings_of(
            assignments,
            relative=max_relative_drop,
            absolute=max_absolute_drop,
            seed=seed,
            no_preflight=no_preflight,
            config=config,
            rates=rate,
        )
        settings.budget.require_plausible(confirmed=yes)  # of an absolute one the accuracy is needed, later
        request = SearchRequest(
            module=reference,
            search_space=required_search_space(space, "--algorithm", "--search-space", "--config"),
            directory=new_directory(reference, out),
            settings=settings,
            tuner=tuner,
            objective=objective,
            trials=trials,
            concurrency=concurrency,
            confirmed=yes,
            options={"port": port, "storage": storage, "study": study, "artefacts": artefacts},
        )
        search = chosen.create(request)
        if tuner is not None and trials is None and tuner.lower() != ADAPTIVE_TUNER.lower():
            raise ConfigError(f"--trials must be given, as the tuner {tuner!r} does not end by itself")
        execute.run_search(chosen, search, quiet=quiet, trackers=track or (), keep_page=keep_page)


def resume(
    directory: Directory,
    port: Port = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many more trials.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Trials at a time (optuna).")] = None,
    track: Track = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a search that was stopped or killed; nothing finished is trained again.

    Example: autocompress resume autocompress-out/DigitsModule-20260102-030405
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        plan = ExperimentPlan.read(ExperimentDirectory(directory))
        engine = engine_of(plan)
        load_if_unknown(algorithm_names(plan.search_space), ModuleReference.from_dict(plan.module).load)
        search = engine.open(directory, port=port, trials=trials, concurrency=concurrency)
        execute.run_search(engine, search, quiet=quiet, trackers=track or ())


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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Help with a study that has begun; may be started and killed at any time.

    Example: autocompress worker --storage postgresql://host/db --study DigitsModule --out /shared/digits
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        engine, reference = engine_named("optuna"), None if module is None else ModuleReference.parse(module)
        shared = {"storage": storage, "study": study, "module": reference}
        found = engine.open(out, trials=trials, concurrency=concurrency, alone=False, **shared)
        execute.run_search(engine, found, quiet=quiet, again=command("autocompress", *sys.argv[1:]))


def check(
    module: Module,
    algorithm: Algorithms = None,
    rate: Rates = None,
    search_space: SearchSpaceFile = None,
    config: Config = None,
    max_relative_drop: RelativeDrop = None,
    max_absolute_drop: AbsoluteDrop = None,
    yes: Yes = False,
    assignments: Assignments = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at your module before any search: the preflight, then what algorithms would remove, untrained.

    Without a search space every algorithm is tried on all layers. Exit code 2 where the preflight refuses the module,
    or an algorithm of the given search space does not apply.
    """
    with errors_as_messages(debug=debug):
        from autocompress.compression.module_loading import ModuleReference

        reference = ModuleReference.parse(module)
        space = search_space_of(algorithm, rate, search_space, config, module=reference)
        settings = settings_of(
            assignments, relative=max_relative_drop, absolute=max_absolute_drop, config=config, rates=rate
        )
        settings.budget.require_plausible(confirmed=yes)
        found, preflight, lines = check_algorithms(reference, space, settings)
        if as_json:
            checks = [each.to_dict() for each in found]
            print(json.dumps({"preflight": preflight.to_dict(), "checks": checks}, indent=2))
        else:
            print("\n".join(lines))
            piped_console().print(checks_table(found))
            for line in (*reasons_against(found), *layers_left_alone(found)):
                typer.echo(line)
    if space is not None and not all(each.applies for each in found):
        raise typer.Exit(2)


def compare(
    module: Module,
    algorithm: Algorithms = None,
    rate: Rates = None,
    search_space: SearchSpaceFile = None,
    config: Config = None,
    tuners: Annotated[
        str,
        typer.Option(help="adaptive; NNI's tpe, random, grid, evolution, ...; Optuna's as optuna-tpe, optuna-gp, ..."),
    ] = ",".join(DEFAULT_TUNERS),
    seeds: Annotated[int, typer.Option(min=1, help="Each tuner searches once with each of so many seeds.")] = 3,
    trials: Annotated[int, typer.Option(min=1, help="At most so many trials of each search.")] = 20,
    max_relative_drop: RelativeDrop = None,
    max_absolute_drop: AbsoluteDrop = None,
    yes: Yes = False,
    assignments: Assignments = None,
    no_preflight: NoPreflight = False,
    objective: Objective = None,
    engine: Annotated[
        str, typer.Option(help="Of NNI's tuners and ours: nni-tuner, without NNI's manager; nni, as real experiments.")
    ] = "nni-tuner",
    jobs: Annotated[int | None, typer.Option(min=1, help="Searches at a time. Default: one for each core.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to keep it; the same one again goes on with it.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let tuners search the same and compare what they reach, after how much training.

    Writes comparison.json, comparison.html and plots/. Ctrl-C stops it; the same command with the same --out goes on.
    """
    with errors_as_messages(debug=debug):
        from autocompress.compare.compare_tuners import compare_tuners
        from autocompress.compression.module_loading import ModuleReference

        if "seed" in assigned(assignments or ()):
            raise ConfigError("--set seed must not be given to compare, whose searches have the seeds 0 to --seeds - 1")
        reference = ModuleReference.parse(module)
        space = search_space_of(algorithm, rate, search_space, config, module=reference)
        settings = settings_of(
            assignments,
            relative=max_relative_drop,
            absolute=max_absolute_drop,
            no_preflight=no_preflight,
            config=config,
            rates=rate,
        )
        settings.budget.require_plausible(confirmed=yes)
        home = new_directory(reference, out)
        try:
            found = compare_tuners(
                reference,
                load_search_space(required_search_space(space, "--algorithm", "--search-space", "--config")).wire,
                tuners,
                settings=settings,
                objective=objective,
                seeds=seeds,
                trials=trials,
                directory=home,
                engine=engine,
                jobs=jobs,
                on_outcome=None if quiet or as_json else lambda outcome: print(outcome_line(outcome), flush=True),
            )
        except KeyboardInterrupt:
            print(f"stopped; the same command with {command('--out', home)} goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            print(json.dumps(found.to_dict(), indent=2))
            return
        print_comparison(found, piped_console())
        print(f"wrote {home / 'comparison.html'}")
