"""What a training step with the user's own functions changes, put back."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

_BETWEEN_STEPS = "_per_optimizer_states"
"""Where a GradScaler keeps how far each optimizer's step has come; no state dict has it."""


@contextmanager
def put_back(model: nn.Module) -> Iterator[Callable[[Any], None]]:
    """Everything that is known of training is after the block what it was before.

    Of the model its weights, buffers, gradients and modes; of optimizers that are stepped their state; of torch's
    schedulers and GradScalers that the user keeps, their state too. What else the user's functions keep, such as
    counters, iterators over data, open files, and scalers and schedulers that are not torch's, stays as the block left
    it.

    Yields:
        a function that keeps another object's state, from then on, if it has `state_dict` and `load_state_dict`.
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
    """All objects of a kind: nobody says which ones the user's functions close over."""
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
    """A step that was broken off leaves a scaler amid it, where the next one would not unscale its gradients."""
    between = [(scaler, copy.deepcopy(getattr(scaler, _BETWEEN_STEPS))) for scaler in scalers if scaler.is_enabled()]
    for scaler, _ in between:
        remember(scaler)

    def restore() -> None:
        for scaler, states in between:
            setattr(scaler, _BETWEEN_STEPS, states)

    return restore


def _cloned(gradient: torch.Tensor | None) -> torch.Tensor | None:
    return None if gradient is None else gradient.detach().clone()
