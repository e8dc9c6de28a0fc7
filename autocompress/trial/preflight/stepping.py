"""One training step: the user's trainer is called, and left when its optimizer has stepped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader

from autocompress.trial.distillation import WrappedCriterion
from autocompress.trial.preflight.hooks import equal_values, is_finite

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
