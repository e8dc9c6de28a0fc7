"""The training step of a preflight, with the hooks of the user's module, on a copy of the model."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from autocompress.compression.hooks import describe
from autocompress.compression.module import ModuleClass, Trainer
from autocompress.compression.trainer_hooks import trainer_of
from autocompress.errors import ModuleError
from autocompress.trial.fine_tuning import find_trainer
from autocompress.trial.preflight.hooks import raising
from autocompress.trial.preflight.stepping import MOST_SECONDS, Step, take_step
from autocompress.trial.spec import seed_everything

_CALLED = "it is called with (model, optimizer, criterion, epoch)"


def training_steps(module: ModuleClass, algorithms: Sequence[str], original: nn.Module) -> Iterator[tuple[str, Step]]:
    """Take one step with each trainer of the module; yields the trainer's name and the step."""
    for name, trainer in _trainers(module, algorithms):
        yield name, _step(module, name, trainer, copy.deepcopy(original))


def check_step(name: str, step: Step, optimizer: str, criterion: str) -> list[str]:
    """Check that a step trained the model; warnings otherwise harmless.

    `name` is of the trainer, `optimizer` and `criterion` of their hooks, for messages.
    """
    if not step.is_finite:
        raise ModuleError(
            f"{criterion} must give a finite loss; in the first training step of {name} it gives "
            f"{step.loss}: check the labels, the inputs' range and the weights"
        )
    if step.changed is not None:
        raise ModuleError(
            f"{name} must change nothing but the values of the model's parameters; {step.changed!r} has another shape "
            "or type after its first step: convert or extend a copy"
        )
    if step.broken is not None:
        raise ModuleError(
            f"{name} must leave the parameters finite; {step.broken!r} is not after its first step: lower the learning "
            f"rate of {optimizer}, and check that the loss has a gradient there"
        )
    if step.maximizes:
        raise ModuleError(
            f"{optimizer} must make an optimizer that lowers the loss; in {name} it has maximize=True: leave that out"
        )
    if step.moved:
        ignored = f"{name} does not step the optimizer that it is given, so that {optimizer} and learning-rate factors"
        return [] if step.steps and not step.other_optimizer else [f"{ignored} do nothing"]
    if step.late:
        return [
            f"{name} takes no optimizer step within {MOST_SECONDS} s of its first batch, so that it was not examined "
            "further"
        ]
    if step.elsewhere:
        raise ModuleError(
            f"{name} must train the model that it is given; its optimizer steps parameters of another one: use its "
            "arguments, not global objects"
        )
    if step.steps:
        raise ModuleError(
            f"{name} must move the parameters of the model that it is given; the optimizer steps and none of them "
            f"moves: compute the loss with that model, call backward() before {optimizer}'s step, and check its "
            "learning rate"
        )
    raise ModuleError(
        f"{name} must train the model that it is given when it is called; it returned without stepping the optimizer: "
        "is its data empty?"
    )


def _trainers(module: ModuleClass, algorithms: Sequence[str]) -> Iterator[tuple[str, Trainer]]:
    """Each trainer once, with its hook's name; functions of the same source are the same."""
    seen: list[Any] = []
    for algorithm in algorithms:
        for find in (find_trainer, trainer_of):
            trainer = find(module, algorithm)
            source = getattr(trainer, "__code__", trainer)
            if trainer is None or any(source is known or source == known for known in seen):
                continue
            seen.append(source)
            tuning = find is find_trainer and module.post_compress_finetuning_trainer(algorithm) is not None
            hook = "post_compress_finetuning_trainer" if tuning else "sparsifying_trainer"
            yield f"{module.__name__}.{hook}({algorithm!r})", trainer


def _step(module: ModuleClass, name: str, trainer: Trainer, model: nn.Module) -> Step:
    _require_signature(name, trainer)
    optimizer = _optimizer(module, model)
    scheduler = _scheduler(module, optimizer)
    seed_everything(0)
    model.train()
    with raising(f"{name} must return a function that trains the model", lambda _: f" ({_CALLED})"):
        step = take_step(
            model, optimizer, module.criterion(), lambda criterion: trainer(model, optimizer, criterion, 0)
        )
    if scheduler is not None:
        _require_schedule(module, scheduler)
    return step


def _require_signature(name: str, trainer: Trainer) -> None:
    try:
        signature = inspect.signature(trainer)
    except (TypeError, ValueError):  # a function of C
        return
    try:
        signature.bind(None, None, None, 0)
    except TypeError as error:
        raise ModuleError(
            f"{name} must return a function of (model, optimizer, criterion, epoch); that which it returns takes "
            f"{signature}"
        ) from error


def _optimizer(module: ModuleClass, model: nn.Module) -> Any:
    name, factory = f"{module.__name__}.optimizer_factory()", module.optimizer_factory()
    rule = f"{name} must return a function that makes an optimizer of model.parameters()"
    if factory is None:
        raise ModuleError(f"{rule}, as the module has a trainer; it returns None")
    with raising(rule):
        optimizer: Any = factory(model.parameters())
    if not hasattr(optimizer, "param_groups") or not hasattr(optimizer, "step"):
        raise ModuleError(f"{rule}; it makes {describe(optimizer)}")
    own = {id(parameter) for parameter in model.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(id(parameter) in own for parameter in held):
        raise ModuleError(f"{rule}; it makes one of other parameters: use the argument, not a global model's")
    if not any(parameter.requires_grad for parameter in held):
        raise ModuleError(
            f"{name} must make an optimizer of parameters that can be trained; none of them requires a gradient: "
            "unfreeze some in model()"
        )
    return optimizer


def _scheduler(module: ModuleClass, optimizer: Any) -> Any:
    make = module.lr_scheduler_factory()
    if make is None:
        return None
    rule = f"{module.__name__}.lr_scheduler_factory() must return a function that makes a scheduler of the optimizer"
    with raising(rule):
        scheduler: Any = make(optimizer)
    if not hasattr(scheduler, "step") or getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ModuleError(f"{rule}, the one that it is given; it makes {describe(scheduler)}")
    return scheduler


def _require_schedule(module: ModuleClass, scheduler: Any) -> None:
    rule = (
        f"{module.__name__}.lr_scheduler_factory() must make a scheduler whose step() needs no argument, as it is "
        "called after each epoch"
    )
    with raising(rule), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.step()
