"""The tasks of `autocompress.trial.child`: `python -m autocompress.trial.tasks TASK RESULT LATE`."""

from __future__ import annotations

import dataclasses
import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import nn

from autocompress.budget import accuracy_margin
from autocompress.compression.base import compressor
from autocompress.compression.measure import ReferenceModel, layer_sizes, measure_latency
from autocompress.compression.module import ModuleClass, call_hook, evaluate, example_inputs, fresh_model
from autocompress.compression.module_loading import AnyReference, ModuleReference, reference_of
from autocompress.compression.pruning.pruner import ALLOCATION
from autocompress.compression.trainer_hooks import lacking, needed_hooks
from autocompress.errors import AutoCompressError, ModuleError, StoreError
from autocompress.evaluation import Evaluation
from autocompress.formats.checkpoint import load_compressed
from autocompress.records import Baseline, ModelSizes
from autocompress.registry import algorithm, algorithms
from autocompress.search.noise import with_accuracy_error
from autocompress.search_space import AlgorithmSpace, SearchSpace, default_space, read_parameters
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import TrialDirectory, Verdict
from autocompress.store.directory import read_json, write_json
from autocompress.trial.fine_tuning import find_trainer
from autocompress.trial.optimization import missing_optimizer
from autocompress.trial.preflight.hooks import require_hooks_return, supported_algorithms
from autocompress.trial.preflight.inspection import measure_only, require_module, run_preflight, searched_algorithms
from autocompress.trial.probe import SearchProbe, may_use_sensitivity
from autocompress.trial.run import retrain
from autocompress.trial.spec import seed_everything

REPORT_SECONDS = 20.0
"""Between two signs of life of a check."""

_ALL_RATES = (0.0, 1.0)
_DISTILLING = (("sparsifying_trainer", "post_compress_finetuning_trainer"), ("criterion",))


def measure_baseline(
    module: ModuleClass,
    search_space: SearchSpace,
    settings: AccuracyAwareSettings | None = None,
    *,
    confirmed: bool = True,
    reference: AnyReference | None = None,
) -> Baseline:
    """Check the search space against the model, run the preflight if it is set, and measure the uncompressed model.

    The sensitivity of its layers is measured last, where an allocation needs it.

    Args:
        module: the user's.
        search_space: its layers and hooks are checked.
        settings: the budget, and whether there is a preflight.
        confirmed: whether an unusual budget is only warned of.
        reference: where the module was loaded from, which may be a file that imports it; by default its own file.

    Raises:
        ConfigError: the search space names layers that the model does not have, or asks an algorithm for what it
            cannot do.
        CompressionError: an algorithm cannot be applied to the model.
        ModuleError: the module lacks a hook that an algorithm needs, or a hook returns something unusable; or the
            preflight finds that it cannot guide a search.
    """
    started, settings = time.monotonic(), settings or AccuracyAwareSettings()
    seed_everything(0)
    model_seconds = require_module(module, search_space, settings) if settings.preflight else 0.0
    if not settings.preflight:
        require_hooks_return(module, searched_algorithms(search_space))
        call_hook(module, "calibration_data")
    reference_model = ReferenceModel.of(module)
    taught = settings.knowledge_distillation
    distilling = taught is not None and taught.type != "auto"
    for entry in search_space.algorithms:
        check_algorithm(module, entry, reference_model, distilling=distilling)
    preflight, original = None, reference_model.original
    if settings.preflight:
        preflight = run_preflight(module, search_space, settings, original, model_seconds, confirmed=confirmed)
        found = Evaluation(preflight.accuracies[0])
    else:
        found = measure_only(module, settings, original, confirmed=confirmed)
    fingerprint = (reference or reference_of(module)).fingerprint()
    epoch_seconds = None if preflight is None else preflight.epoch_seconds
    probe = SearchProbe(module, settings, reference_model, fingerprint, epoch_seconds)
    baseline = Baseline(
        accuracy=found.accuracy,
        holdout_accuracy=_holdout(module, reference_model.original),
        higher_is_better=bool(module.higher_is_better),
        measurement=reference_model.size,
        fingerprint=fingerprint,
        sensitivities=probe.run(search_space),
        preflight=preflight,
        seconds=round(time.monotonic() - started, 3),
    )
    return with_accuracy_error(baseline, settings.budget, found.values)


def check_algorithm(
    module: ModuleClass, space: AlgorithmSpace, reference_model: ReferenceModel, *, distilling: bool = False
) -> None:
    """Check an algorithm of a search space against the model and the module's hooks; nothing is compressed."""
    require_hooks(module, space.name, distilling=distilling, arguments=deciding_arguments(space))
    axis = space.axis(*_ALL_RATES)
    choice = read_parameters(space.parameters(axis.low if axis else None, *_ALL_RATES))
    for part in choice.stages:
        request = reference_model.request(part.name, part.rules, part.arguments, module)
        try:
            compressor(part.name).check(reference_model.original, request)
        except AutoCompressError as error:
            raise type(error)(f"algorithm {part.name!r}: {error}") from error


def deciding_arguments(space: AlgorithmSpace) -> dict[str, Any]:
    """The arguments that trials of an algorithm may have and that decide which hooks it needs."""
    return {ALLOCATION.name: "sensitivity"} if may_use_sensitivity(space) else {}


def require_hooks(
    module: ModuleClass, name: str, *, distilling: bool = False, arguments: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Check that the module has the hooks that an algorithm with its arguments, or knowledge distillation, needs."""
    for part in algorithm(name).stages:
        missing = missing_hooks(module, part.name, distilling=distilling, arguments=arguments)
        if missing:
            taught = distilling and not part.needs_with(arguments)
            reason = "knowledge distillation" if taught else f"algorithm {part.name!r}"
            raise ModuleError(lacking(module, reason, missing))
        if find_trainer(module, part.name) is not None and module.optimizer_factory() is None:
            raise ModuleError(missing_optimizer(module, part.name))


def missing_hooks(
    module: ModuleClass, name: str, *, distilling: bool = False, arguments: Mapping[str, Any] = MappingProxyType({})
) -> list[str]:
    """The hooks that an algorithm needs and the module lacks, each as `hook()` or `one() or another()`."""
    calls: dict[str, Callable[[], Any]] = {
        "sparsifying_trainer": lambda: module.sparsifying_trainer(name),
        "post_compress_finetuning_trainer": lambda: module.post_compress_finetuning_trainer(name),
        "optimizer_factory": module.optimizer_factory,
        "criterion": module.criterion,
        "calibration_data": module.calibration_data,
    }
    needs = dict.fromkeys((*algorithm(name).needs_with(arguments), *(_DISTILLING if distilling else ())))
    return needed_hooks(module, (hooks for hooks in needs if all(calls[hook]() is None for hook in hooks)))


def verify(module: ModuleClass, checkpoint: Path, threshold: float) -> Verdict:
    """Load a checkpoint into a fresh model and evaluate it; its layers' sizes are written beside it.

    Raises:
        StoreError: the checkpoint is damaged.
        ModuleError: the evaluator returns no finite number.
    """
    seed_everything(0)
    model = load_compressed(checkpoint, fresh_model(module))
    TrialDirectory(checkpoint.parent).write_sizes(_sizes(module, model))
    accuracy = evaluate(module.evaluator(), model.eval())
    budget = accuracy_margin(accuracy, threshold, higher_is_better=module.higher_is_better)
    return Verdict(accuracy, _holdout(module, model), budget >= 0)


def _sizes(module: ModuleClass, model: nn.Module) -> ModelSizes:
    original, inputs = fresh_model(module), example_inputs(module)
    latency, before = measure_latency(model, original, inputs), layer_sizes(original, inputs)
    return ModelSizes(
        before=tuple(before),
        after=tuple(layer_sizes(model, inputs, before)),
        seconds_before=latency.original_seconds,
        seconds_after=latency.seconds,
    )


def verified(module: ModuleClass, task: Mapping[str, Any]) -> Verdict:
    """The verdict; the trial of a damaged checkpoint is trained again first."""
    checkpoint = Path(task["checkpoint"])
    try:
        return verify(module, checkpoint, task["threshold"])
    except StoreError:
        retrain(module, checkpoint.parent.name, threshold=task["threshold"], directory=task["directory"])
        return verify(module, checkpoint, task["threshold"])


def _holdouts(module: ModuleClass, checkpoints: Iterable[str]) -> dict[str, Any]:
    """Accuracy on hold-out data by checkpoint; None without such data."""
    seed_everything(0)
    models = ((place, load_compressed(Path(place), fresh_model(module))) for place in checkpoints)
    return {place: _holdout(module, model) for place, model in models}


def _holdout(module: ModuleClass, model: Any) -> float | None:
    evaluator = module.holdout_evaluator()
    return None if evaluator is None else evaluate(evaluator, model.eval())


def _result(task: Mapping[str, Any]) -> dict[str, Any]:
    try:
        reference = ModuleReference.from_dict(task["module"])
        module = reference.load(keep_path=True)
        if task["task"] == "measure":
            space = SearchSpace.parse(task["search_space"])
            settings = AccuracyAwareSettings.from_dict(task["settings"])
            return measure_baseline(module, space, settings, confirmed=task["confirmed"], reference=reference).to_dict()
        if task["task"] == "check":
            return _check(module, task["search_space"], AccuracyAwareSettings.from_dict(task["settings"]))
        if task["task"] == "holdout":
            return {"accuracies": _holdouts(module, task["checkpoints"])}
        return dataclasses.asdict(verified(module, task))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - carried to the launching process, which raises it
        return {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}


def _check(
    module: ModuleClass, search_space: Mapping[str, Any] | None, settings: AccuracyAwareSettings
) -> dict[str, Any]:
    from autocompress.trial.check import checks_of  # it needs this module

    seed_everything(0)
    if search_space is None:  # a module need not know them all
        space = default_space(supported_algorithms(module, algorithms()))
    else:
        space = SearchSpace.parse(search_space)
    model_seconds = require_module(module, space, settings)
    preflight = run_preflight(module, space, settings, fresh_model(module).eval(), model_seconds)
    tried = default_space(algorithms()) if search_space is None else space
    found, checks = checks_of(module, tried), list[dict[str, Any]]()
    for entry in tried.algorithms:
        with _reported(entry.name) as report:
            check = next(found)
            report("applies" if check.applies else f"does not apply: {check.reason}")
        checks.append(check.to_dict())
    return {"checks": checks, "preflight": preflight.to_dict()}


@contextmanager
def _reported(name: str) -> Iterator[Callable[[str], None]]:
    """Write to standard error that an algorithm is still being tried, now and then, and what came of it."""
    started, done = time.monotonic(), threading.Event()

    def write(what: str) -> None:
        print(f"{name}: {what} (tried for {time.monotonic() - started:.1f} s)", file=sys.stderr, flush=True)

    def wait() -> None:
        while not done.wait(REPORT_SECONDS):
            write("still trying")

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield write
    finally:
        done.set()
        waiting.join()


def main(arguments: Sequence[str]) -> None:
    """Run the task of a file and write its result to another; where it hangs is written to a third."""
    task, result, late = arguments
    content = read_json(Path(task))
    if content["seconds"] is not None:
        # A thread outside the interpreter; the file must stay open for it.
        traceback_file = Path(late).open("w", encoding="utf-8")  # noqa: SIM115
        faulthandler.dump_traceback_later(content["seconds"], exit=True, file=traceback_file)
    write_json(Path(result), _result(content))


if __name__ == "__main__":
    main(sys.argv[1:])
