"""The preflight of a loop: the user's functions are tried before anything is searched.

`validate_fn` gets copies of the uncompressed model. `train_epoch_fn` takes one step on the user's own model, as its
optimizer is of that model's parameters; what `restoring.put_back` knows of is put back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import nn

from autocompress.compress.copying import copied
from autocompress.compress.state import device_of
from autocompress.controller.controller import CompressionController
from autocompress.engines.inprocess.functions import UserFunctions
from autocompress.engines.inprocess.restoring import put_back
from autocompress.engines.inprocess.training import configured
from autocompress.engines.plan import ExperimentPlan
from autocompress.errors import AutoCompressError, ConfigError, ModuleError, first_line
from autocompress.records import Preflight
from autocompress.trial.preflight.damaging import output_layers
from autocompress.trial.preflight.evaluating import Evaluated, Evaluations, named_evaluator
from autocompress.trial.preflight.judging import Judge, Names, spread
from autocompress.trial.preflight.looking import preflight_of
from autocompress.trial.preflight.stepping import Step, take_step
from autocompress.trial.preflight.training import judge_step
from autocompress.trial.seeds import unchanged_randomness

_NAMES = Names("validate_fn", "higher_is_better")


def look(
    controller: CompressionController, model: nn.Module, functions: UserFunctions, plan: ExperimentPlan
) -> Preflight:
    """Try the user's functions; the model, what trains it and the random numbers are left as they were.

    Args:
        controller: of the model.
        model: as the user handed it over.
        functions: the user's.
        plan: with the uncompressed accuracy as the user told it.

    Raises:
        ConfigError: the budget leaves nothing to lose, or the uncompressed accuracy is another one.
        ModuleError: a function cannot train or evaluate, or its numbers cannot guide a search.
    """
    started, baseline = time.monotonic(), plan.measured
    judge = Judge(plan.settings.budget, baseline.higher_is_better, _NAMES)
    judge.require_budget()
    with unchanged_randomness():
        evaluated = _evaluated(controller, functions, judge)
        _require_accuracy(evaluated, plan)
        with put_back(controller.model) as remember:
            step = _stepped(controller, model, functions, remember)
    warnings = judge_step("train_epoch_fn", step, "configure_optimizers_fn", "train_epoch_fn")
    return preflight_of(evaluated, [step], [*evaluated.warnings, *warnings], time.monotonic() - started)


def _evaluated(controller: CompressionController, functions: UserFunctions, judge: Judge) -> Evaluated:
    original = copied(controller.uncompressed.model).to(device_of(controller.model))
    return Evaluations(
        named_evaluator(
            "validate_fn must evaluate the model that it is given", lambda model: functions.accuracy(model, 0)
        ),
        original,
        lambda: output_layers(original, controller.uncompressed.inputs),
        judge,
    ).run()


def _require_accuracy(evaluated: Evaluated, plan: ExperimentPlan) -> None:
    given, found = plan.measured.accuracy, evaluated.accuracies
    tolerated = max(abs(given - plan.threshold), spread(found))
    if all(abs(given - each) > tolerated for each in found):
        raise ConfigError(
            f"uncompressed_model_accuracy must be what validate_fn gives the uncompressed model; it is {given:g}, and "
            f"validate_fn gives {found[0]:g}: give that number, in its unit"
        )


def _stepped(
    controller: CompressionController, model: nn.Module, functions: UserFunctions, remember: Callable[[Any], None]
) -> Step:
    optimizer, scheduler = None, None
    try:
        if functions.configure_optimizers is not None:
            optimizer, scheduler = configured(functions.configure_optimizers())
            remember(optimizer)
            remember(scheduler)  # of a user who gives the same ones each time
        controller.model.train()
        return take_step(
            controller.model,
            optimizer,
            None,
            lambda _: functions.train(
                _Resting(controller), model, epoch=0, optimizer=optimizer, lr_scheduler=scheduler
            ),
        )
    except AutoCompressError:
        raise
    except Exception as error:
        raise ModuleError(
            f"train_epoch_fn and configure_optimizers_fn must train the model that is given; they raised "
            f"{first_line(error)}"
        ) from error


class _Resting:
    """A controller whose schedule stands still; all else is the controller's."""

    def __init__(self, controller: CompressionController) -> None:
        self._controller = controller
        self.scheduler = _RestingSchedule(controller.scheduler)

    def __getattr__(self, name: str) -> Any:
        if name == "_controller" or name.startswith("__"):  # of one that is being copied, which has nothing yet
            raise AttributeError(name)
        return getattr(self._controller, name)


class _RestingSchedule:
    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule

    def step(self, *_: Any, **__: Any) -> None:
        """An iteration that does not count."""

    def epoch_step(self, *_: Any, **__: Any) -> None:
        """An epoch that does not count."""

    def __getattr__(self, name: str) -> Any:
        if name == "_schedule" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._schedule, name)
