"""Use of the user's trainer and data by algorithms that need them during compression."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.compression.base import CompressionRequest
from autocompress.compression.model_state import (
    copy_model,
    detach_inputs,
    device_of,
    eval_mode,
    positional_arguments,
    to_device,
)
from autocompress.compression.module import ModuleClass, Trainer, batch_inputs, hook_name
from autocompress.errors import ModuleError

_CALIBRATION_BATCHES = 8
_RECALIBRATION_BATCHES = 20


class _StopTraining(BaseException):
    """Stops the user's trainer; a BaseException, so that the user's `except Exception` does not catch it."""


def run_epochs(module: ModuleClass, algorithm: str, model: nn.Module, epochs: int, on_step: Callable[[], None]) -> None:
    """Train the model in place with the user's trainer.

    Args:
        module: the user's module.
        algorithm: name that is passed to the trainer hooks.
        model: trained in place.
        epochs: number of epochs.
        on_step: called before every optimizer step, with gradients computed; it may change them.

    Raises:
        ModuleError: a required hook is missing, or the trainer never steps its optimizer.
    """
    training = _UserTraining.of(module, algorithm, model, lambda _: on_step())
    for epoch in range(epochs):
        training.epoch(epoch)


def run_batches(
    module: ModuleClass, algorithm: str, model: nn.Module, batches: int, on_step: Callable[[], None]
) -> None:
    """Run so many batches of the user's trainer on the model, over several epochs if needed, without updating weights.

    Buffers, such as running statistics, do change. Arguments and errors as `run_epochs`.
    """

    def note(steps: int) -> None:
        on_step()
        if steps == batches:
            raise _StopTraining

    training = _UserTraining.of(module, algorithm, model, note)
    training.freeze()
    with contextlib.suppress(_StopTraining):
        for epoch in itertools.count():
            training.epoch(epoch)


def input_batches(module: ModuleClass, algorithm: str, model: nn.Module, batches: int) -> list[tuple[Any, ...]]:
    """Model inputs, detached: `calibration_data`, else what the user's trainer passes to a copy of the model.

    Raises:
        ModuleError: the module has neither, or its calibration data is empty.
    """
    data = module.calibration_data()
    if data is not None:
        found = [detach_inputs(batch_inputs(model, batch)) for batch in itertools.islice(data, batches)]
        if not found:
            raise ModuleError(f"{hook_name(module, 'calibration_data')} must have at least one batch; it has none")
        return found
    return _inputs_from_trainer(module, algorithm, copy_model(model), batches)


def recalibration_batches(module: ModuleClass, algorithm: str, model: nn.Module) -> Iterator[Any]:
    """Batches to estimate BatchNorm's statistics on: `calibration_data`, else what the trainer passes to a copy.

    The trainer is called when the first one is drawn.
    """
    data = module.calibration_data()
    if data is not None:
        yield from data
    elif trainer_of(module, algorithm) is not None and module.optimizer_factory() is not None:
        yield from _inputs_from_trainer(module, algorithm, copy_model(model), _RECALIBRATION_BATCHES)


def calibration_inputs(request: CompressionRequest, model: nn.Module) -> list[tuple[Any, ...]]:
    """The data for the ranges of activations: `input_batches`, else the example inputs."""
    if request.module is None:
        return [request.example_inputs]
    seen = input_batches(request.module, request.algorithm, model, _CALIBRATION_BATCHES)
    return seen or [request.example_inputs]  # the trainer may not run the model


def run_inputs(model: nn.Module, inputs: list[tuple[Any, ...]]) -> None:
    """Run a forward pass for each of the inputs, in eval mode and without gradients."""
    device = device_of(model)
    with eval_mode(model), torch.no_grad():
        for arguments in inputs:
            model(*to_device(arguments, device))


def new_optimizer(make: Callable[[Any], Optimizer], model: nn.Module) -> Optimizer:
    """The optimizer that a module's factory makes of a model, or, where it takes no `model`, of its parameters."""
    try:
        takes_model = next(iter(inspect.signature(make).parameters), None) == "model"
    except (TypeError, ValueError):  # a function of C
        takes_model = False
    return make(model if takes_model else model.parameters())


def needed_hooks(module: ModuleClass, groups: Iterable[Iterable[str]]) -> list[str]:
    """Names of hooks as messages list them, each as `hook()` or `one() or another()`; of each group one is needed."""
    own = f"{module.__name__}."
    named = (dict.fromkeys(hook_name(module, hook).removeprefix(own) for hook in group) for group in groups)
    return list(dict.fromkeys(" or ".join(names) for names in named))


def lacking(module: ModuleClass, reason: str, needed: Iterable[str]) -> str:
    """Message for a module that lacks hooks, which `needed_hooks` has named."""
    why = "not given" if hasattr(module, "argument_names") else f"{module.__name__} returns None"
    return f"{reason} needs {', '.join(needed)}; {why}"


def trainer_of(module: ModuleClass, algorithm: str) -> Trainer | None:
    """The sparsifying trainer, else the fine-tuning trainer."""
    return module.sparsifying_trainer(algorithm) or module.post_compress_finetuning_trainer(algorithm)


def _inputs_from_trainer(module: ModuleClass, algorithm: str, model: nn.Module, batches: int) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if len(seen) == batches:
            raise _StopTraining
        seen.append(detach_inputs(positional_arguments(model, arguments, keywords)))

    model.register_forward_pre_hook(note, with_kwargs=True)
    training = _UserTraining.of(module, algorithm, model, lambda _: None)
    training.freeze()
    with contextlib.suppress(_StopTraining), torch.enable_grad():  # batches may be drawn where nothing is trained
        training.epoch(0)
    return seen


@dataclass
class _UserTraining:
    """The user's trainer with its model, optimizer and criterion; `steps` counts optimizer steps."""

    name: str
    model: nn.Module
    trainer: Trainer
    optimizer: Optimizer
    criterion: Any
    steps: int = 0

    @classmethod
    def of(cls, module: ModuleClass, algorithm: str, model: nn.Module, on_step: Callable[[int], None]) -> _UserTraining:
        """Call the user's hooks; `on_step` receives the number of each step, from 1, before it is taken."""
        trainer, make_optimizer = trainer_of(module, algorithm), module.optimizer_factory()
        if trainer is None or make_optimizer is None:
            missing = "sparsifying_trainer" if trainer is None else "optimizer_factory"
            raise ModuleError(lacking(module, f"algorithm {algorithm!r}", needed_hooks(module, [(missing,)])))
        name = f"{module.__name__} for {algorithm!r}"
        training = cls(name, model, trainer, new_optimizer(make_optimizer, model), module.criterion())

        def count(*_: Any) -> None:
            training.steps += 1
            on_step(training.steps)

        training.optimizer.register_step_pre_hook(count)
        return training

    def freeze(self) -> None:
        """Clear the gradients before every step, so that the optimizer leaves the parameters as they are."""
        self.optimizer.register_step_pre_hook(lambda *_: self.optimizer.zero_grad(set_to_none=True))

    def epoch(self, number: int) -> None:
        """Train one epoch, numbered from 0."""
        before = self.steps
        self.model.train()
        self.trainer(self.model, self.optimizer, self.criterion, number)
        if self.steps == before:
            raise ModuleError(f"the trainer of {self.name} must step its optimizer; it never did")
