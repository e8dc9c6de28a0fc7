"""Train and evaluate a model while a trial fine-tunes it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from autocompress.budget import accuracy_margin
from autocompress.compression.base import recalibrate
from autocompress.compression.module import ModuleClass, Trainer, evaluate_samples
from autocompress.compression.trainer_hooks import recalibration_batches
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation
from autocompress.registry import algorithms
from autocompress.search.noise import is_near_miss
from autocompress.trial.distillation import distilling, suitable
from autocompress.trial.optimization import (
    OWN_SCHEDULE,
    Optimization,
    ScheduledSteps,
    averaged,
    make_optimizer,
    make_scheduler,
    take_parameters,
)


class Training(Protocol):
    """How a model is trained and evaluated, as fine-tuning needs it."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the accuracy."""
        ...

    def begin(self, model: nn.Module, epochs: int) -> Callable[[int], None] | None:
        """A function that trains one of so many epochs with a new optimizer; None: there is no training.

        Its argument counts the epochs of the trial, from 0.
        """
        ...

    def average(self, model: nn.Module) -> bool:
        """Give the model the averaged weights of the last epoch; False where there are none."""
        ...

    def evaluate(self, model: nn.Module, epoch: int) -> float:
        """The accuracy after `epoch` epochs, a finite number in the evaluator's unit; the model is in eval mode."""
        ...

    def evaluation_counts(self) -> bool:
        """Whether an evaluation counts now; not while a schedule still moves the compression rate."""
        ...

    def should_stop(self, accuracy: float) -> bool:
        """Whether to end although the model is not within the budget."""
        ...


@dataclass
class ModuleTraining:
    """Training with the hooks of the user's module. Implements `Training`.

    Attributes:
        module: the user's: trainer, optimizer, criterion, evaluator.
        algorithm: name that trainers are looked up by.
        optimization: learning rates, distillation, averaging.
        teacher: the uncompressed model.
        accuracy_of: called with each evaluation; its accuracy.
        schedule: of the learning rates, as it is recorded; None before the first epoch.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
    """

    module: ModuleClass
    algorithm: str
    optimization: Optimization = field(default_factory=Optimization)
    teacher: nn.Module | None = None
    accuracy_of: Callable[[Evaluation], float] = attrgetter("accuracy")
    schedule: str | None = field(default=None, init=False)
    steps_per_epoch: int | None = field(default=None, init=False)
    _averaged: AveragedModel | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.steps_per_epoch = self.optimization.steps_per_epoch

    @property
    def higher_is_better(self) -> bool:
        """Direction of the accuracy."""
        return self.module.higher_is_better

    def begin(self, model: nn.Module, epochs: int) -> Callable[[int], None] | None:
        """A function that trains one epoch with the module's trainer."""
        trainer = find_trainer(self.module, self.algorithm)
        if trainer is None:
            return None
        optimizer: Optimizer | None = None
        scheduler: Any = None
        steps = ScheduledSteps(self.optimization.schedule, epochs, self.steps_per_epoch)

        def train(epoch: int) -> None:
            nonlocal optimizer, scheduler
            if optimizer is None:  # only where something is trained
                optimizer = make_optimizer(self.module, self.algorithm, model, self.optimization.lr_factor)
                scheduler = make_scheduler(self.module, optimizer, epochs)
                steps.schedule = steps.schedule if scheduler is None else "constant"
                self.schedule = steps.schedule if scheduler is None else OWN_SCHEDULE
                steps.attach(optimizer)
            last = steps.epoch == epochs - 1
            with self._criterion(model) as criterion, self._averaging(model, optimizer, last=last):
                trainer(model, optimizer, criterion, epoch)
            if scheduler is not None:
                scheduler.step()
            steps.end_epoch()
            self.steps_per_epoch = steps.steps_per_epoch

        return train

    def evaluate(self, model: nn.Module, epoch: int) -> float:  # noqa: ARG002
        """The accuracy by the module's evaluator."""
        return self.accuracy_of(evaluate_samples(self.module.evaluator(), model))

    def average(self, model: nn.Module) -> bool:
        """Give the model the averaged weights of the last epoch, its BatchNorm's statistics estimated again."""
        if self._averaged is None:
            return False
        take_parameters(model, self._averaged.module)
        self._averaged = None
        recalibrate(model, recalibration_batches(self.module, self.algorithm, model))
        return True

    def evaluation_counts(self) -> bool:
        """A module has no schedule."""
        return True

    def should_stop(self, accuracy: float) -> bool:  # noqa: ARG002
        """A module's trial ends within the budget or at its last epoch."""
        return False

    def _criterion(self, model: nn.Module) -> AbstractContextManager[Any]:
        criterion, chosen = self.module.criterion(), self.optimization.distillation
        settings = chosen and suitable(chosen, criterion)
        if chosen is None or settings is None or self.teacher is None:
            return nullcontext(criterion)
        if criterion is None:
            raise ModuleError(f"knowledge distillation needs {self.module.__name__}.criterion(); got None")
        return distilling(model, self.teacher, criterion, settings, required=chosen.type != "auto")

    @contextmanager
    def _averaging(self, model: nn.Module, optimizer: Optimizer, *, last: bool) -> Iterator[None]:
        if self.optimization.averaging is None or not last:
            yield
            return
        self._averaged = mean = averaged(model, self.optimization.averaging)
        handle = optimizer.register_step_post_hook(lambda *_: mean.update_parameters(model))
        yield
        handle.remove()


def find_trainer(module: ModuleClass, algorithm: str) -> Trainer | None:
    """The trainer of fine-tuning: that of after compression, else the sparsifying one, else none.

    An algorithm that works without training has none.
    """
    known = algorithms().get(algorithm)
    if known is not None and not known.trains:
        return None
    return module.post_compress_finetuning_trainer(algorithm) or module.sparsifying_trainer(algorithm)


@dataclass
class FineTuningResult:
    """The result of fine-tuning; filled in while it runs, so that an interruption loses nothing."""

    accuracy: float = math.nan  # the best so far, in the evaluator's unit; NaN before the first evaluation
    budget: float = -math.inf  # how far that is inside the threshold
    required: float = 0.0  # least budget that is feasible
    error: float | None = None  # standard error of that; None: not known
    epochs: int = 0  # epochs done
    second_chance_epochs: int = 0  # of these, those after a near miss
    state: dict[str, Any] | None = None  # the weights that reached it; None while they are the model's own
    interrupted: bool = False  # whether a signal ended it

    @property
    def is_feasible(self) -> bool:
        """Whether it is within the budget."""
        return self.budget >= self.required

    @property
    def is_near_miss(self) -> bool:
        """Whether it is outside the budget by no more than the standard error."""
        return is_near_miss(self.budget, self.error, self.required)


@dataclass(frozen=True)
class FineTuning:
    """Fine-tuning for at most `epochs` epochs, and at a near miss for some more."""

    training: Training  # how the model is trained and evaluated
    threshold: float  # the worst tolerable accuracy
    epochs: int  # the most epochs
    evaluate_first: bool = False  # evaluate before the first epoch, and do not train if that is feasible
    validate_every_n_epochs: int = 1  # also evaluates after the last epoch
    # called after each evaluation with (epoch, accuracy, accuracy budget)
    on_epoch: Callable[[int, float, float], None] = lambda *_: None
    second_chance_epochs: int = 0  # the most epochs after a near miss, the learning rates starting anew
    leaves_early: bool = True  # end at the first feasible evaluation
    margin_error: Callable[[], float | None] = lambda: None  # standard error of the latest evaluation's budget
    required_margin: Callable[[], float] = lambda: 0.0  # least budget of the latest evaluation that is feasible

    def run(self, model: nn.Module) -> FineTuningResult:
        """Train the model in place; stop at the first feasible evaluation, or at KeyboardInterrupt.

        The model ends with the weights of its best evaluation.
        """
        tuned = FineTuningResult()
        try:
            self._cycle(model, tuned, self.epochs, evaluate_first=self.evaluate_first)
            if self.second_chance_epochs and tuned.epochs and tuned.is_near_miss:
                _restore(model, tuned)
                tuned.second_chance_epochs = self.second_chance_epochs
                self._cycle(model, tuned, self.second_chance_epochs, evaluate_first=False)
        except KeyboardInterrupt:
            tuned.interrupted = True
        tuned.second_chance_epochs = min(tuned.second_chance_epochs, max(0, tuned.epochs - self.epochs))
        if math.isnan(tuned.accuracy):
            self._evaluate(model, tuned, counts=True)
        _restore(model, tuned)
        return tuned

    def _cycle(self, model: nn.Module, tuned: FineTuningResult, epochs: int, *, evaluate_first: bool) -> None:
        train_epoch = self.training.begin(model, epochs) if epochs else None
        if train_epoch is None or evaluate_first:
            self._evaluate(model, tuned, counts=train_epoch is None or self.training.evaluation_counts())
        if train_epoch is None or self._is_done(tuned):
            return
        for left in reversed(range(epochs)):
            model.train()
            _keep(model, tuned)
            train_epoch(tuned.epochs)
            tuned.epochs += 1
            if tuned.epochs % self.validate_every_n_epochs == 0 or not left:
                accuracy = self._evaluate(model, tuned, counts=not left or self.training.evaluation_counts())
                if self._is_done(tuned) or self.training.should_stop(accuracy):
                    return
        _keep(model, tuned)
        if self.training.average(model):
            self._evaluate(model, tuned, counts=True)

    def _is_done(self, tuned: FineTuningResult) -> bool:
        return tuned.is_feasible and self.leaves_early

    def _evaluate(self, model: nn.Module, tuned: FineTuningResult, *, counts: bool) -> float:
        model.eval()
        accuracy = self.training.evaluate(model, tuned.epochs)
        budget = accuracy_margin(accuracy, self.threshold, higher_is_better=self.training.higher_is_better)
        self.on_epoch(tuned.epochs, accuracy, budget)
        if counts and budget - self.required_margin() > tuned.budget - tuned.required:
            tuned.accuracy, tuned.budget, tuned.state = accuracy, budget, None
            tuned.error, tuned.required = self.margin_error(), self.required_margin()
        return accuracy


def _keep(model: nn.Module, tuned: FineTuningResult) -> None:
    """Copy the best weights before the model changes."""
    if tuned.state is None and not math.isnan(tuned.accuracy):
        tuned.state = _snapshot(model)


def _restore(model: nn.Module, tuned: FineTuningResult) -> None:
    """Give the model the best weights."""
    if tuned.state is not None:
        model.load_state_dict(tuned.state)
        tuned.state = None


def _snapshot(model: nn.Module) -> dict[str, Any]:
    # Other values than tensors are extra state, which a module may have.
    state = model.state_dict()
    return {name: value.clone() if torch.is_tensor(value) else copy.deepcopy(value) for name, value in state.items()}
