"""The child's side of `autocompress.trial.child`: `python -m autocompress.trial.tasks ORDER ANSWER`."""

from __future__ import annotations

import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autocompress.algorithms import algorithm
from autocompress.budget import accuracy_budget
from autocompress.compress.checkpoint import load_compressed
from autocompress.compress.hooks import evaluate, example_inputs, fresh_model
from autocompress.compress.layers import select_layers
from autocompress.compress.loading import ModuleReference
from autocompress.compress.measure import measure
from autocompress.compress.module import ModuleClass
from autocompress.compress.registry import compressor
from autocompress.config import SearchSpace, read_parameters
from autocompress.errors import ModuleError
from autocompress.records import Baseline
from autocompress.store import Verdict
from autocompress.store.files import read_json, write_json
from autocompress.trial.fine_tune import find_trainer, missing_optimizer
from autocompress.trial.order import layer_targets
from autocompress.trial.seeds import seed_everything

_ALL_RATES = (0.0, 1.0)


def measure_baseline(module: ModuleClass, search_space: SearchSpace) -> Baseline:
    """Check the search space against the model and measure the uncompressed model.

    Raises:
        ConfigError: the search space names layers that the model does not have.
        ModuleError: the module lacks a hook that an algorithm needs, or a hook returns something unusable.
    """
    started = time.monotonic()
    seed_everything(0)
    model, inputs = fresh_model(module), example_inputs(module)
    for entry in search_space.algorithms:
        require_hooks(module, entry.name)
        axis = entry.axis(*_ALL_RATES)
        choice = read_parameters(entry.parameters(axis.low if axis else None, *_ALL_RATES))
        select_layers(model, layer_targets(choice), compressor(entry.name).layer_types)
    measurement = measure(model, inputs)
    accuracy = evaluate(module.evaluator(), model.eval())
    return Baseline(
        accuracy=accuracy,
        holdout_accuracy=_holdout(module, model),
        higher_is_better=bool(module.higher_is_better),
        measurement=measurement,
        fingerprint=ModuleReference.of(module).fingerprint(),
        seconds=round(time.monotonic() - started, 3),
    )


def require_hooks(module: ModuleClass, name: str) -> None:
    """Check that the module has the hooks that an algorithm needs.

    Raises:
        ModuleError: one is missing; all missing ones are named.
    """
    calls: dict[str, Callable[[], Any]] = {
        "sparsifying_trainer": lambda: module.sparsifying_trainer(name),
        "optimizer_factory": module.optimizer_factory,
        "criterion": module.criterion,
        "calibration_data": module.calibration_data,
    }
    missing = [hook for hook in algorithm(name).needs if calls[hook]() is None]
    if missing:
        hooks = ", ".join(f"{hook}()" for hook in missing)
        raise ModuleError(f"algorithm {name!r} needs {hooks}; {module.__name__} returns None")
    if find_trainer(module, name) is not None and module.optimizer_factory() is None:
        raise ModuleError(missing_optimizer(module, name))


def verify(module: ModuleClass, checkpoint: Path, threshold: float) -> Verdict:
    """Load a checkpoint into a fresh model and evaluate it.

    Raises:
        StoreError: the checkpoint is damaged.
        ModuleError: the evaluator returns no finite number.
    """
    seed_everything(0)
    model = load_compressed(checkpoint, fresh_model(module))
    accuracy = evaluate(module.evaluator(), model.eval())
    budget = accuracy_budget(accuracy, threshold, higher_is_better=module.higher_is_better)
    return Verdict(accuracy, _holdout(module, model), budget >= 0)


def _holdout(module: ModuleClass, model: Any) -> float | None:
    evaluator = module.holdout_evaluator()
    return None if evaluator is None else evaluate(evaluator, model.eval())


def _answer(order: Mapping[str, Any]) -> dict[str, Any]:
    try:
        module = ModuleReference.from_dict(order["module"]).load()
        if order["task"] == "measure":
            return measure_baseline(module, SearchSpace.parse(order["search_space"])).to_dict()
        return dataclasses.asdict(verify(module, Path(order["checkpoint"]), order["threshold"]))
    except Exception as error:  # noqa: BLE001 - carried to the launching process, which raises it
        return {"error": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}


def main(order: str, answer: str) -> None:
    """Do what the order file says and write the answer file."""
    write_json(Path(answer), _answer(read_json(Path(order))))


if __name__ == "__main__":
    main(*sys.argv[1:])
