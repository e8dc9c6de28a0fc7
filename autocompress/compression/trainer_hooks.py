"""Driving the user's trainer for algorithms that look at data while they compress."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.compression.base import CompressionRequest
from autocompress.compression.hooks import batch_inputs
from autocompress.compression.model_state import device_of, evaluating, moved
from autocompress.compression.module import ModuleClass, Trainer
from autocompress.errors import ModuleError

_CALIBRATION_BATCHES = 8


class _Enough(BaseException):
    """Leaves the user's trainer; no `except Exception` of a user may swallow it."""


def run_epochs(module: ModuleClass, algorithm: str, model: nn.Module, epochs: int, on_step: Callable[[], None]) -> None:
    """Train the model with the user's trainer.

    Args:
        module: the user's module.
        algorithm: name that the trainer is asked for.
        model: trained in place.
        epochs: how long.
        on_step: called before every step of the optimizer, when the gradients are there; it may change them.

    Raises:
        ModuleError: a hook that is needed is missing, or the trainer never steps its optimizer.
    """
    training = _Training.of(module, algorithm, model, lambda _: on_step())
    for epoch in range(epochs):
        training.epoch(epoch)


def run_batches(
    module: ModuleClass, algorithm: str, model: nn.Module, batches: int, on_step: Callable[[], None]
) -> None:
    """Show the model so many batches of the user's trainer, which goes no further; no step is taken.

    Args:
        module: the user's module.
        algorithm: name that the trainer is asked for.
        model: its weights stay as they are; its buffers, such as running statistics, do not.
        batches: how many, over several epochs where one has fewer.
        on_step: called where a step of the optimizer would be, when the gradients are there.

    Raises:
        ModuleError: a hook that is needed is missing, or the trainer never steps its optimizer.
    """

    def note(steps: int) -> None:
        on_step()
        if steps == batches:
            raise _Enough

    training = _Training.of(module, algorithm, model, note)
    training.freeze()
    with contextlib.suppress(_Enough):
        for epoch in itertools.count():
            training.epoch(epoch)


def input_batches(module: ModuleClass, algorithm: str, model: nn.Module, batches: int) -> list[tuple[Any, ...]]:
    """Inputs of the model: positional arguments of so many forward passes, detached; fewer where there are no more.

    From `calibration_data`; else those that the user's trainer feeds a copy of the model.

    Raises:
        ModuleError: the module has neither, or its calibration data is empty.
    """
    data = module.calibration_data()
    if data is not None:
        found = [_detached(batch_inputs(model, batch)) for batch in itertools.islice(data, batches)]
        if not found:
            raise ModuleError(f"calibration_data() of {module.__name__} must have at least one batch; it has none")
        return found
    return _trained_inputs(module, algorithm, copy.deepcopy(model), batches)


def calibration_inputs(request: CompressionRequest, model: nn.Module) -> list[tuple[Any, ...]]:
    """What the ranges of activations are measured on: `input_batches`, else the example inputs.

    Raises:
        ModuleError: as `input_batches`.
    """
    if request.module is None:
        return [request.example_inputs]
    seen = input_batches(request.module, request.algorithm, model, _CALIBRATION_BATCHES)
    return seen or [request.example_inputs]  # a trainer need not run the model it is given


def show(model: nn.Module, inputs: list[tuple[Any, ...]]) -> None:
    """One forward pass for each of the inputs, in eval mode and without gradients."""
    device = device_of(model)
    with evaluating(model), torch.no_grad():
        for arguments in inputs:
            model(*moved(arguments, device))


def trainer_of(module: ModuleClass, algorithm: str) -> Trainer | None:
    """The trainer of algorithms that train while they compress: the sparsifying one, else that of fine-tuning."""
    return module.sparsifying_trainer(algorithm) or module.post_compress_finetuning_trainer(algorithm)


def _trained_inputs(module: ModuleClass, algorithm: str, model: nn.Module, batches: int) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        if len(seen) == batches:
            raise _Enough
        seen.append(_detached(arguments))

    model.register_forward_pre_hook(note)
    training = _Training.of(module, algorithm, model, lambda _: None)
    training.freeze()
    with contextlib.suppress(_Enough):
        training.epoch(0)
    return seen


@dataclass
class _Training:
    """The user's trainer and what it takes.

    Attributes:
        name: of the user's module and of the algorithm, for messages.
        steps: how often the optimizer was stepped.
    """

    name: str
    model: nn.Module
    trainer: Trainer
    optimizer: Optimizer
    criterion: Any
    steps: int = 0

    @classmethod
    def of(cls, module: ModuleClass, algorithm: str, model: nn.Module, on_step: Callable[[int], None]) -> _Training:
        """Ask the user's module; `on_step` is told the number of each step, from 1, before it is taken."""
        trainer, make_optimizer = trainer_of(module, algorithm), module.optimizer_factory()
        if trainer is None or make_optimizer is None:
            missing = "sparsifying_trainer()" if trainer is None else "optimizer_factory()"
            raise ModuleError(f"algorithm {algorithm!r} needs {missing}; {module.__name__} returns None")
        name = f"{module.__name__} for {algorithm!r}"
        training = cls(name, model, trainer, make_optimizer(model.parameters()), module.criterion())

        def count(*_: Any) -> None:
            training.steps += 1
            on_step(training.steps)

        training.optimizer.register_step_pre_hook(count)
        return training

    def freeze(self) -> None:
        """Steps move nothing: without gradients an optimizer leaves the parameters alone."""
        self.optimizer.register_step_pre_hook(lambda *_: self.optimizer.zero_grad(set_to_none=True))

    def epoch(self, number: int) -> None:
        """Train one epoch, numbered from 0."""
        before = self.steps
        self.model.train()
        self.trainer(self.model, self.optimizer, self.criterion, number)
        if self.steps == before:
            raise ModuleError(f"the trainer of {self.name} must step its optimizer; it never did")


def _detached(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(_detached(item) for item in value)
    return value
