"""The preflight of a user's module: all checks in order, the cheap ones first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from torch import nn

from autocompress.compression.layers import absent_types, weight_types
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, evaluate_samples, example_inputs, fresh_model, hook_name
from autocompress.evaluation import Evaluation
from autocompress.records import Preflight
from autocompress.registry import algorithm
from autocompress.search.noise import mean_error
from autocompress.search_space import SearchSpace, read_parameters
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.preflight.evaluation import EvaluationResult, Evaluations, named_evaluator
from autocompress.trial.preflight.hooks import (
    require_hooks_return,
    require_inputs,
    require_same_weights,
    require_weights,
)
from autocompress.trial.preflight.judge import Judge, Names, output_layers
from autocompress.trial.preflight.training import Step, check_step, training_steps
from autocompress.trial.spec import seed_everything

_LONG = 0.3
"""Seconds that `model()` takes from which it is not called once more."""


def require_module(module: ModuleClass, space: SearchSpace, settings: AccuracyAwareSettings) -> float:
    """Check what needs no evaluation, the budget and the hooks; seconds that `model()` takes."""
    _judge(module, settings).require_budget()
    require_hooks_return(module, searched_algorithms(space))
    started = time.monotonic()
    model = fresh_model(module)
    seconds = time.monotonic() - started
    require_weights(module, model)
    require_inputs(module, model)
    return seconds


def run_preflight(
    module: ModuleClass,
    space: SearchSpace,
    settings: AccuracyAwareSettings,
    original: nn.Module,
    model_seconds: float = 0.0,
    *,
    confirmed: bool = True,
) -> Preflight:
    """Evaluate, damage and train copies of the uncompressed model; `require_module` comes before.

    It takes at most the time of two evaluations, one training step for each trainer, and two seconds.

    Raises:
        ConfigError: the budget is unusual and was not confirmed.
        ModuleError: the evaluations cannot guide a search, or the trainer does not train.
    """
    started, judge = time.monotonic(), _judge(module, settings, confirmed=confirmed)
    evaluated = Evaluations(
        _named_evaluator(module, judge),
        original,
        lambda: output_layers(original, example_inputs(module)),
        judge,
    ).run()
    steps, warnings = list[Step](), [*evaluated.warnings, *_absent_types(space, original)]
    for name, step in training_steps(module, searched_algorithms(space), original):
        warnings += check_step(name, step, hook_name(module, "optimizer_factory"), hook_name(module, "criterion"))
        steps.append(step)
    if model_seconds <= _LONG:
        seed_everything(1)  # random weights would be others
        require_same_weights(module, original)
    return preflight_of(evaluated, steps, warnings, time.monotonic() - started)


def measure_only(
    module: ModuleClass, settings: AccuracyAwareSettings, original: nn.Module, *, confirmed: bool = True
) -> Evaluation:
    """The evaluation of the uncompressed model without a preflight: once, as the preflight does first."""
    judge = _judge(module, settings, confirmed=confirmed)
    judge.require_budget()
    evaluator = _named_evaluator(module, judge)
    seed_everything(0)
    found = evaluator(copy_model(original).eval())
    judge.require_plausible(found.accuracy)
    return found


def _named_evaluator(module: ModuleClass, judge: Judge) -> Callable[[nn.Module], Evaluation]:
    evaluator = module.evaluator()
    return named_evaluator(
        f"{judge.names.evaluator} must return a function that evaluates the model, which is its only argument",
        lambda model: evaluate_samples(evaluator, model),
    )


def preflight_of(
    evaluated: EvaluationResult, steps: Sequence[Step], warnings: Sequence[str], seconds: float
) -> Preflight:
    """The record of the results."""
    step = max(steps, key=lambda each: each.epoch_seconds or each.seconds or math.inf, default=None)
    accuracies = tuple(evaluated.accuracies)
    return Preflight(
        accuracies=accuracies,
        noise=max(accuracies) - min(accuracies) if len(accuracies) > 1 else None,
        damaged=evaluated.zeroed,
        evaluation_seconds=evaluated.seconds,
        step_seconds=None if step is None else step.seconds,
        epoch_seconds=None if step is None else step.epoch_seconds,
        loss=None if step is None else step.loss,
        late=step is not None and step.late,
        samples=evaluated.samples or None,
        sampling_error=None if evaluated.first.values is None else mean_error(evaluated.first.values),
        seconds=seconds,
        warnings=tuple(warnings),
    )


def _judge(module: ModuleClass, settings: AccuracyAwareSettings, *, confirmed: bool = True) -> Judge:
    direction = hook_name(module, "higher_is_better").removesuffix("()")
    names = Names(hook_name(module, "evaluator"), direction)
    return Judge(settings.budget, bool(module.higher_is_better), names, confirmed)


def _absent_types(space: SearchSpace, model: nn.Module) -> list[str]:
    """A warning for each rule that lists types which the model has not, beside others."""
    found = []
    for entry in space.algorithms:
        axis = entry.axis(0.0, 1.0)
        for part in read_parameters(entry.parameters(axis.low if axis else None, 0.0, 1.0)).stages:
            found += absent_types(model, part.rules, weight_types(part.name))
    rules = {
        (name, str(rule)): f"the model has no layer of type {name!r}; the entry for {rule} is for the others"
        for name, rule in found
    }
    return list(rules.values())


def searched_algorithms(space: SearchSpace) -> list[str]:
    """Names of the algorithms of a search space; of a mix, its parts."""
    return list(dict.fromkeys(part.name for entry in space.algorithms for part in algorithm(entry.name).stages))
