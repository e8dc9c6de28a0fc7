"""Comparing tuners on one module: the plan on disk, one search for each tuner and seed, and the comparison's report."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from autocompress.argument_checks import AT_LEAST_1, checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.compare.one_search import Engine, SearchSpec
from autocompress.compare.running import run_all
from autocompress.compare.tuners import DEFAULT_TUNERS, TunerName, tuners_named
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.opening import require_same
from autocompress.errors import AutoCompressError, ConfigError, StoreError, unknown_name
from autocompress.plan import choose_objective, installed_versions
from autocompress.records import Baseline
from autocompress.report.comparison import Comparison, SearchOutcome, outcome
from autocompress.report.data import ReportData, read_report_data
from autocompress.report.files import write_comparison
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.store.disk import read_json, write_json
from autocompress.store.leaving import removed_if_unused
from autocompress.trial.child import holdouts_in_child, measure_in_child, refuse_in_child

_logger = logging.getLogger("autocompress.compare")


def open_comparison(home: Path, wanted: Mapping[str, Any], reference: ModuleReference) -> Baseline:
    """Measure the uncompressed model once for all searches, and write the plan of the comparison to `plan.json`.

    Raises:
        StoreError: the directory belongs to another comparison, or cannot be written.
        AutoCompressError: the model cannot be measured.
    """
    path = home / "plan.json"
    if not path.exists():
        if any(entry.name != ".lock" for entry in home.iterdir()):
            raise StoreError(f"the directory must be empty, or of this comparison; {home} holds other files")
        settings = AccuracyAwareSettings.from_dict(wanted["settings"])
        measured = measure_in_child(wanted["module"], wanted["search_space"], home.parent, settings)
        write_json(path, {**wanted, "baseline": measured.to_dict()})
        for warning in measured.preflight.warnings if measured.preflight is not None else ():
            _logger.warning("%s", warning)
    known = read_json(path)
    require_same(str(home), "comparison", known, wanted)
    baseline = Baseline.from_dict(known.get("baseline", {}))
    if baseline.fingerprint != reference.fingerprint():
        raise StoreError(f"{home} must be of the same module, whose source has changed: name another directory")
    return baseline


def search_spec(home: Path, wanted: Mapping[str, Any], baseline: Baseline, tuner: TunerName, seed: int) -> SearchSpec:
    """The search of one tuner and seed."""
    return SearchSpec(
        tuner=tuner,
        settings=AccuracyAwareSettings.from_dict({**wanted["settings"], "seed": seed}),
        directory=home / tuner.label / str(seed),
        baseline=baseline,
        **{name: wanted[name] for name in ("trials", "engine", "module", "search_space", "objective")},
    )


_ENOUGH_TRIALS = 20


@checked_arguments
def compare_tuners(
    module: type[AbstractAutoCompressionModule] | ModuleReference,
    search_space: Mapping[str, Any] | str | Path,
    tuners: str | Sequence[str] = DEFAULT_TUNERS,
    *,
    budget: AccuracyBudget | None = None,
    settings: AccuracyAwareSettings | None = None,
    objective: str | None = None,
    seeds: Annotated[int, AT_LEAST_1] = 3,
    trials: Annotated[int, AT_LEAST_1] = _ENOUGH_TRIALS,
    directory: str | Path | None = None,
    engine: str = "in-process",
    jobs: Annotated[int, AT_LEAST_1] | None = None,
    on_outcome: Callable[[SearchOutcome], None] | None = None,
) -> Comparison:
    """Let several tuners search the same, with the same budget, objective, trial runner and number of trials.

    No search knows another one's trials. Each is an experiment of its own in `<directory>/<tuner>/<seed>`. Called again
    with the same directory, it continues: finished searches are not run again. A tuner that is broken or not installed
    has its reason in `errors`; the others continue.

    Args:
        module: the class that inherits `AbstractAutoCompressionModule`, or a reference to it.
        search_space: as `AutoCompressionSearchSpaceGenerator.dumps` gives it, or a JSON file.
        tuners: `adaptive`, NNI's by their names (`tpe`, `random`, `grid`, ...), Optuna's samplers as `optuna-<name>`.
        budget: the tolerated accuracy degradation; by default that of the settings, which is 1 % relative.
        settings: all settings of the search; the seed is each one's own.
        objective: what trials are compared by; by default "rate" for one algorithm, "size" for several.
        seeds: how many; 0, 1, ...
        trials: the most trials of a search; the adaptive one ends by itself.
        directory: where all is kept; `autocompress-comparison-<module>` by default.
        engine: "in-process", or "nni": NNI's tuners and ours run as real NNI experiments.
        jobs: searches at a time; as many as there are cores by default, as one search is a chain of trials.
        on_outcome: called with the outcome of each search that has ended.

    Returns:
        the comparison, which is also written to `comparison.json`, `comparison.html` and `plots/`.

    Raises:
        ConfigError: a tuner, the engine, the search space or a number breaks a rule.
        StoreError: the directory belongs to another comparison, or cannot be written.
        AutoCompressError: the model cannot be measured.
    """
    refuse_in_child("tuners must not be compared")
    if engine not in get_args(Engine):
        raise ConfigError(unknown_name("engine", engine, get_args(Engine)))
    reference = module if isinstance(module, ModuleReference) else ModuleReference.of(module)
    chosen = settings or AccuracyAwareSettings()
    chosen = chosen if budget is None else chosen.with_budget(budget)
    space, named = load_search_space(search_space), tuners_named(tuners)
    _ = chosen.searches(space)  # an empty range is found here
    wanted = {
        "module": reference.to_dict(),
        "search_space": space.wire,
        "settings": chosen.to_dict(),
        "objective": choose_objective(space, objective),
        "trials": trials,
        "engine": engine,
    }
    home = Path(directory or f"autocompress-comparison-{reference.class_name}").expanduser().resolve()
    with removed_if_unused(home), ExperimentDirectory(home).locked():
        baseline = open_comparison(home, wanted, reference)
        specs = [search_spec(home, wanted, baseline, tuner, seed) for seed in range(seeds) for tuner in named]
        outcomes = _run(home, specs, jobs or os.cpu_count() or 1, on_outcome or (lambda _: None))
        comparison = _compared(specs[0], trials, engine, outcomes)
        write_comparison(comparison, home)
    return comparison


def _run(
    home: Path, specs: Iterable[SearchSpec], jobs: int, on_outcome: Callable[[SearchOutcome], None]
) -> list[SearchOutcome]:
    specs = list(specs)
    found = {spec.directory: known for spec in specs if (known := _kept(spec)) is not None}

    def ended(spec: SearchSpec, error: str | None) -> None:
        found[spec.directory] = _outcome(home, spec, error)
        on_outcome(found[spec.directory])

    run_all([spec for spec in specs if spec.directory not in found], jobs, ended)
    return [found[spec.directory] for spec in specs]


def _kept(spec: SearchSpec) -> SearchOutcome | None:
    """The outcome that an earlier call wrote."""
    path = _outcome_file(spec)
    return SearchOutcome.from_dict(read_json(path)) if path.exists() else None


def _outcome_file(spec: SearchSpec) -> Path:
    return spec.directory.with_name(f"{spec.directory.name}.json")


def _outcome(home: Path, spec: SearchSpec, error: str | None) -> SearchOutcome:
    place = str(spec.directory.relative_to(home))
    if error is None:
        try:
            return _found(spec, place)
        except AutoCompressError as failed:
            error = str(failed.args[0])
    return SearchOutcome(spec.tuner.label, spec.seed, place, error=error)  # not kept: the next call tries again


def _found(spec: SearchSpec, place: str) -> SearchOutcome:
    data = read_report_data(ExperimentDirectory(spec.directory))
    result = outcome(data, spec.tuner.label, place, _holdouts(spec, data))
    write_json(_outcome_file(spec), result.to_dict())
    return result


def _holdouts(spec: SearchSpec, data: ReportData) -> dict[str, float]:
    if data.plan.measured.holdout_accuracy is None:
        return {}
    keys = {data.directory / "trials" / each.key / "checkpoint": each.key for each in data.records if each.feasible}
    found = holdouts_in_child(spec.module, keys) if keys else {}
    return {keys[place]: accuracy for place, accuracy in found.items() if accuracy is not None}


def _compared(spec: SearchSpec, trials: int, engine: str, outcomes: Sequence[SearchOutcome]) -> Comparison:
    baseline = spec.baseline
    return Comparison(
        module=spec.module["class_name"],
        objective=spec.objective,
        threshold=spec.settings.budget.threshold(baseline.accuracy, higher_is_better=baseline.higher_is_better),
        baseline_accuracy=baseline.accuracy,
        trials=trials,
        minimal_step=spec.settings.minimal_compression_rate_step,
        engine=engine,
        versions=installed_versions(),
        outcomes=tuple(outcomes),
    )
