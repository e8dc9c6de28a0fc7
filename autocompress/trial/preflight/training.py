"""The training step of a preflight: the user's trainer is called on a copy, and left when its optimizer has stepped."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, Trainer, hook_must, hook_name, raising
from autocompress.compression.trainer_hooks import new_optimizer, trainer_of
from autocompress.errors import ModuleError
from autocompress.evaluation import describe
from autocompress.trial.distillation import WrappedCriterion
from autocompress.trial.fine_tuning import find_trainer
from autocompress.trial.optimization import make_scheduler
from autocompress.trial.preflight.hooks import equal_values, is_finite
from autocompress.trial.spec import seed_everything

MOST_SECONDS = 1.5
"""A trainer that has not stepped so long after its first batch came, as it gathers gradients of many, is left where it
is. How long it takes to begin, as it starts the workers of a DataLoader, does not matter: nothing can be seen, nor
anything broken off, before the model is called."""

_MOST_STILL_STEPS = 8
"""Steps that move nothing, as the first ones of a warm-up do, before that counts as moving nothing."""


class _Taken(BaseException):
    """Leaves the trainer; not an Exception, which the user's code might catch."""


@dataclass
class Step:
    """The course of a training step."""

    called: float = 0.0  # when the trainer was called; this and the other moments are of `time.monotonic`
    loading: float | None = None  # when its loader was first iterated over; None: never
    training: float | None = None  # when the model was called first; None: never
    ended: float = 0.0  # when the trainer was left
    steps: int = 0  # how often an optimizer of the model's parameters was stepped
    moved: bool = False  # whether a parameter of the model moved
    elsewhere: int = 0  # how often an optimizer of other parameters was stepped
    other_optimizer: bool = False  # whether it was another one than the given
    batches: int = 0  # how often the model was called
    # whether the trainer was left before its first step, though at least one batch had gone through the model
    late: bool = False
    returned: bool = False  # whether the trainer returned by itself
    losses: list[Any] = field(default_factory=list)  # what the criterion returned
    loaders: list[Any] = field(default_factory=list)  # that the trainer has iterated over
    changed: str | None = None  # a parameter whose shape or type is no longer what it was; None: none
    broken: str | None = None  # a parameter that was finite and is no longer; None: none
    maximizes: bool = False  # whether the optimizer raises the loss: `maximize=True`

    @property
    def seconds(self) -> float | None:
        """From the trainer's call to the end of the step; None where there was no step."""
        return None if self.late else self.ended - self.called

    @property
    def epoch_seconds(self) -> float | None:
        """The time of an epoch where a single loader of known length was iterated over; else None.

        Up to the first batch the trainer starts up, which it does once. Without workers it loads each batch by itself.
        """
        if len(self.loaders) != 1 or self.training is None or self.loading is None:
            return None
        alone = getattr(self.loaders[0], "num_workers", 0) == 0
        began = self.loading if alone and self.loading < self.training else self.training
        try:
            return began - self.called + (self.ended - began) / self.batches * len(self.loaders[0])
        except TypeError:  # an iterable data set has no length
            return None

    @property
    def loss(self) -> float | None:
        """The first one as a number; None where there is none."""
        numbers = [each for each in self.losses if isinstance(each, torch.Tensor) and each.numel() == 1]
        return float(numbers[0].detach()) if numbers else None

    @property
    def is_finite(self) -> bool:
        """Whether no loss was NaN or infinite."""
        return all(map(is_finite, self.losses))


def take_step(model: nn.Module, given: Optimizer | None, criterion: Any, train: Callable[[Any], Any]) -> Step:
    """Train a model in place for one step, with the optimizer `given`; losses of `criterion` are recorded."""
    step = Step()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    own = {id(parameter) for parameter in model.parameters()}

    def leave() -> None:
        step.ended = time.monotonic()  # what follows, such as ending a loader's workers, is no part of the step
        raise _Taken

    def stepped(optimizer: Optimizer, *_: Any) -> None:
        if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
            step.elsewhere += 1
            if not step.steps and step.elsewhere >= _MOST_STILL_STEPS:
                leave()
            return
        step.steps += 1
        step.maximizes |= any(bool(group.get("maximize")) for group in optimizer.param_groups)
        step.other_optimizer |= given is not None and optimizer is not given
        if _has_moved(model, before) or step.steps >= _MOST_STILL_STEPS:
            leave()

    def called(*_: Any) -> None:
        now = time.monotonic()
        if step.training is None:
            step.training = now
        if not step.steps and now - step.training > MOST_SECONDS:
            step.late = True
            leave()
        step.batches += 1

    hooks = (register_optimizer_step_post_hook(stepped), model.register_forward_pre_hook(called))
    try:
        with _recorded_losses(criterion, step.losses) as heard, _recorded_loaders(step):
            step.called = time.monotonic()
            train(heard)
            step.returned, step.ended = True, time.monotonic()
    except _Taken:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    step.moved = _has_moved(model, before)
    step.changed, step.broken = _changed(model, before), _broken(model, before)
    return step


def _has_moved(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = dict(model.named_parameters())
    return any(name in now and not equal_values(value, now[name]) for name, value in before.items())


def _changed(model: nn.Module, before: dict[str, torch.Tensor]) -> str | None:
    now = dict(model.named_parameters())
    for name, value in before.items():
        if name not in now or now[name].shape != value.shape or now[name].dtype != value.dtype:
            return name
    return next((name for name in now if name not in before), None)


def _broken(model: nn.Module, before: dict[str, torch.Tensor]) -> str | None:
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()) and name in before and bool(before[name].isfinite().all()):
            return name
    return None


@contextmanager
def _recorded_losses(criterion: Any, losses: list[Any]) -> Iterator[Any]:
    """The criterion, whose results are noted."""

    def note(loss: Any) -> Any:
        if len(losses) < 2:
            losses.append(loss.detach() if isinstance(loss, torch.Tensor) else loss)
        return loss

    if criterion is None:
        yield None
    elif isinstance(criterion, nn.Module):
        handle = criterion.register_forward_hook(lambda _, __, loss: note(loss))
        with handle:
            yield criterion
    else:
        yield WrappedCriterion(criterion, note)


@contextmanager
def _recorded_loaders(step: Step) -> Iterator[None]:
    """Note the DataLoaders that the block iterates over: the only thing that knows how long an epoch is."""
    original = DataLoader.__iter__

    def noted(loader: Any) -> Any:
        if not any(known is loader for known in step.loaders):
            step.loaders.append(loader)
        if step.loading is None:
            step.loading = time.monotonic()
        return original(loader)

    DataLoader.__iter__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        DataLoader.__iter__ = original  # type: ignore[method-assign]


_EPOCHS = 3
"""For which schedulers are made."""

_CALLED = "it is called with (model, optimizer, criterion, epoch)"


def training_steps(module: ModuleClass, algorithms: Sequence[str], original: nn.Module) -> Iterator[tuple[str, Step]]:
    """Take one step with each trainer of the module; yields the trainer's name and the step."""
    for name, trainer in _trainers(module, algorithms):
        yield name, _step(module, name, trainer, copy_model(original))


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
            name = hook_name(module, hook)
            yield (f"{name[:-1]}{algorithm!r})" if name.endswith("()") else name), trainer


def _step(module: ModuleClass, name: str, trainer: Trainer, model: nn.Module) -> Step:
    _require_signature(name, trainer)
    optimizer = _optimizer(module, model)
    scheduler = _scheduler(module, optimizer)
    seed_everything(0)
    model.train()
    with raising(f"{name} must return a function that trains the model", f" ({_CALLED})"):
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
    name, factory = hook_name(module, "optimizer_factory"), module.optimizer_factory()
    rule = f"{hook_must(module, 'optimizer_factory')} a function that makes an optimizer of model.parameters()"
    if factory is None:
        raise ModuleError(f"{rule}, as the module has a trainer; it returns None")
    with raising(rule):
        optimizer: Any = new_optimizer(factory, model)
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
    if module.lr_scheduler_factory() is None:
        return None
    rule = f"{hook_must(module, 'lr_scheduler_factory')} a function that makes a scheduler of the optimizer"
    with raising(rule):
        scheduler = make_scheduler(module, optimizer, _EPOCHS)
    if not hasattr(scheduler, "step") or getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise ModuleError(f"{rule}, the one that it is given; it makes {describe(scheduler)}")
    return scheduler


def _require_schedule(module: ModuleClass, scheduler: Any) -> None:
    rule = (
        f"{hook_name(module, 'lr_scheduler_factory')} must make a scheduler whose step() needs no argument, as it is "
        "called after each epoch"
    )
    with raising(rule), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.step()
