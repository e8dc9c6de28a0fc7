"""The preflight of a training loop: one evaluation and one step with the user's functions, undone afterwards."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from autocompress.compression.model_state import copy_model, device_of
from autocompress.engines.local.functions import UserFunctions
from autocompress.engines.local.training import configured
from autocompress.errors import AutoCompressError, ConfigError, ModuleError, first_line
from autocompress.nncf.controller import CompressionController
from autocompress.plan import ExperimentPlan
from autocompress.records import Preflight
from autocompress.trial.preflight.evaluation import EvaluationResult, Evaluations, named_evaluator
from autocompress.trial.preflight.inspection import preflight_of
from autocompress.trial.preflight.judge import Judge, Names, output_layers, spread
from autocompress.trial.preflight.training import Step, check_step, take_step
from autocompress.trial.spec import preserved_rng_state

_BETWEEN_STEPS = "_per_optimizer_states"
"""Where a GradScaler keeps how far each optimizer's step has come; no state dict has it."""


@contextmanager
def put_back(model: nn.Module) -> Iterator[Callable[[Any], None]]:
    """Restore the state of training after the block.

    That is the model's weights, buffers, gradients and modes, and the state of optimizers that are stepped and of all
    torch schedulers and GradScalers. Counters, iterators over data, open files, and scalers and schedulers that are not
    torch's keep the state that the block left.

    Yields:
        a function that saves the state of one more object with `state_dict` and `load_state_dict`.
    """
    restore_model, states = _of_model(model), dict[int, tuple[Any, Any]]()

    def remember(stateful: Any, *_: Any) -> None:
        if id(stateful) not in states and hasattr(stateful, "state_dict") and hasattr(stateful, "load_state_dict"):
            states[id(stateful)] = stateful, copy.deepcopy(stateful.state_dict())

    restore_scalers = _of_scalers(_living(GradScaler), remember)
    for scheduler in _living(LRScheduler):
        remember(scheduler)
        remember(getattr(scheduler, "optimizer", None))  # before the scheduler changes its learning rates
    handle = register_optimizer_step_pre_hook(remember)
    try:
        yield remember
    finally:
        handle.remove()
        restore_model()
        for stateful, state in states.values():
            stateful.load_state_dict(state)
        restore_scalers()


def _living(kind: type) -> list[Any]:
    """All objects of a type, as the user's functions may close over any of them."""
    return [each for each in gc.get_objects() if issubclass(type(each), kind)]


def _of_model(model: nn.Module) -> Callable[[], None]:
    values = {tensor: tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())}
    gradients = {parameter: _cloned(parameter.grad) for parameter in model.parameters()}
    modes = {module: module.training for module in model.modules()}

    def restore() -> None:
        with torch.no_grad():
            for tensor, value in values.items():
                tensor.copy_(value)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        for module, training in modes.items():
            module.training = training

    return restore


def _of_scalers(scalers: list[GradScaler], remember: Callable[[Any], None]) -> Callable[[], None]:
    """Restore scalers that an interrupted step left unfinished: the next step would not unscale its gradients."""
    between = [(scaler, copy.deepcopy(getattr(scaler, _BETWEEN_STEPS))) for scaler in scalers if scaler.is_enabled()]
    for scaler, _ in between:
        remember(scaler)

    def restore() -> None:
        for scaler, states in between:
            setattr(scaler, _BETWEEN_STEPS, states)

    return restore


def _cloned(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return None if gradient is None else gradient.detach().clone()


_NAMES = Names("validate_fn", "higher_is_better")


def check(
    controller: CompressionController, model: nn.Module, functions: UserFunctions, plan: ExperimentPlan
) -> Preflight:
    """Check the user's functions; the model, the state of training and the random numbers are restored.

    Raises:
        ConfigError: the budget tolerates no loss, or the uncompressed accuracy differs from the plan's.
        ModuleError: a function cannot train or evaluate, or its results cannot guide a search.
    """
    started, baseline = time.monotonic(), plan.measured
    judge = Judge(plan.settings.budget, baseline.higher_is_better, _NAMES)
    judge.require_budget()
    with preserved_rng_state():
        evaluated = _evaluated(controller, functions, judge)
        _require_accuracy(evaluated, plan)
        with put_back(controller.model) as remember:
            step = _stepped(controller, model, functions, remember)
    warnings = check_step("train_epoch_fn", step, "configure_optimizers_fn", "train_epoch_fn")
    return preflight_of(evaluated, [step], [*evaluated.warnings, *warnings], time.monotonic() - started)


def _evaluated(controller: CompressionController, functions: UserFunctions, judge: Judge) -> EvaluationResult:
    original = copy_model(controller.uncompressed.original).to(device_of(controller.model))
    return Evaluations(
        named_evaluator(
            "validate_fn must evaluate the model that it is given", lambda model: functions.evaluate(model, 0)
        ),
        original,
        lambda: output_layers(original, controller.uncompressed.inputs),
        judge,
    ).run()


def _require_accuracy(evaluated: EvaluationResult, plan: ExperimentPlan) -> None:
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
    """A controller whose schedule does not move."""

    def __init__(self, controller: CompressionController) -> None:
        self._controller = controller
        self.scheduler = _RestingSchedule(controller.scheduler)

    def __getattr__(self, name: str) -> Any:
        if name == "_controller" or name.startswith("__"):  # while it is being copied
            raise AttributeError(name)
        return getattr(self._controller, name)


class _RestingSchedule:
    def __init__(self, schedule: Any) -> None:
        self._schedule = schedule

    def step(self, *_: Any, **__: Any) -> None:
        """Does nothing."""

    def epoch_step(self, *_: Any, **__: Any) -> None:
        """Does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name == "_schedule" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._schedule, name)
