"""Compare tuners on one module: a search for each tuner and seed, some at a time, each in its own process."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any, get_args

from autocompress.argument_checks import AT_LEAST_1, checked_arguments
from autocompress.budget import AccuracyBudget
from autocompress.compare.one_search import DEFAULT_TUNERS, SPECS, Engine, SearchSpec, TunerName, tuners_named
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.start import require_same
from autocompress.errors import AutoCompressError, ConfigError, StoreError, unknown_name
from autocompress.plan import choose_objective, installed_versions
from autocompress.records import Baseline
from autocompress.report.comparison import Comparison, SearchOutcome, outcome
from autocompress.report.data import ReportData, read_report_data
from autocompress.report.page import write_comparison
from autocompress.search_space import load_search_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.store.directory import read_json, removed_if_unused, write_json
from autocompress.trial.child import holdouts_in_child, measure_in_child, refuse_in_child

_STOPPING_SECONDS = 90.0


def run_all(specs: Sequence[SearchSpec], jobs: int, on_end: Callable[[SearchSpec, str | None], None]) -> None:
    """Run or resume searches; `on_end` is called with each and its error. Ctrl-C stops them cleanly."""
    running = SearchProcesses(max(1, (os.cpu_count() or 1) // jobs))
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        ended = {pool.submit(running.run, spec): spec for spec in specs}
        try:
            for future in as_completed(ended):
                on_end(ended[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


class SearchProcesses:
    """The running search processes, each with `threads` threads unless `OMP_NUM_THREADS` is set."""

    def __init__(self, threads: int) -> None:
        self._environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run(self, spec: SearchSpec) -> str | None:
        """Run one search and return its error, if any. Its output goes to `<directory>.log`.

        Only its owner can read the log, as it may contain the secret address of NNI's page.
        """
        log = spec.directory.with_name(f"{spec.directory.name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        log.touch(mode=0o600)
        with tempfile.TemporaryDirectory(prefix="autocompress-") as folder, log.open("wb") as output:
            request, result = Path(folder, "request.json"), Path(folder, "result.json")
            request.write_bytes(SPECS.dump_json(spec))
            command = [sys.executable, "-m", "autocompress.compare.one_search", str(request), str(result)]
            with self._lock:
                if self._stopped:
                    return "it was stopped before it began"
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=self._environment, start_new_session=True
                )
                self._processes.add(process)
            code = process.wait()
            self._processes.discard(process)
            if result.exists():
                error: str | None = read_json(result)["error"]
                hint = f" (pip install {spec.tuner.install})" if spec.tuner.install is not None else ""
                return f"{error}{hint}" if error is not None and "not installed" in error else error
        return f"its process ended with code {code}; what it printed is in {log}"

    def stop(self) -> None:
        """Terminate all searches; completed trials are kept."""
        with self._lock:
            self._stopped, processes = True, list(self._processes)
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(_STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


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
        write_json(path, {**wanted, "baseline": measured.to_dict()}, checksum=True)
        for warning in measured.preflight.warnings if measured.preflight is not None else ():
            _logger.warning("%s", warning)
    known = read_json(path, checksum=True)
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
    engine: str = "nni-tuner",
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
        engine: of NNI's tuners and ours: "nni-tuner", or "nni", which runs each as a real experiment.
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
    return SearchOutcome.from_dict(read_json(path, checksum=True)) if path.exists() else None


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
    write_json(_outcome_file(spec), result.to_dict(), checksum=True)
    return result


def _holdouts(spec: SearchSpec, data: ReportData) -> dict[str, float]:
    if data.plan.measured.holdout_accuracy is None:
        return {}
    keys = {data.directory / "trials" / each.key / "checkpoint": each.key for each in data.records if each.feasible}
    found = holdouts_in_child(spec.module, keys, spec.settings) if keys else {}
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
