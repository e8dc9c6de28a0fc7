"""Train and evaluate a model while a trial fine-tunes it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.budget import accuracy_margin
from autocompress.compression.module import ModuleClass, Trainer, evaluate_samples
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation
from autocompress.settings import KnowledgeDistillation
from autocompress.trial.distillation import distilling


class Training(Protocol):
    """How a model is trained and evaluated, as fine-tuning needs it."""

    @property
    def higher_is_better(self) -> bool:
        """Direction of the accuracy."""
        ...

    def begin(self, model: nn.Module) -> Callable[[int], None] | None:
        """A function that trains one epoch, counted from 0, with a new optimizer; None: there is no training."""
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


@dataclass(frozen=True)
class ModuleTraining:
    """Training with the hooks of the user's module. Implements `Training`."""

    module: ModuleClass  # the user's module: trainer, optimizer, criterion, evaluator
    algorithm: str  # name that trainers are looked up by
    lr_factor: float = 1.0  # factor on the learning rates
    distillation: KnowledgeDistillation | None = None  # how the teacher's outputs count; None: they do not
    teacher: nn.Module | None = None  # the uncompressed model
    accuracy_of: Callable[[Evaluation], float] = attrgetter("accuracy")  # called with each evaluation

    @property
    def higher_is_better(self) -> bool:
        """Direction of the accuracy."""
        return self.module.higher_is_better

    def begin(self, model: nn.Module) -> Callable[[int], None] | None:
        """A function that trains one epoch with the module's trainer."""
        trainer = find_trainer(self.module, self.algorithm)
        if trainer is None:
            return None
        optimizer: Optimizer | None = None
        scheduler: Any = None

        def train(epoch: int) -> None:
            nonlocal optimizer, scheduler
            if optimizer is None:  # only where something is trained
                optimizer = self._optimizer(model)
                make_scheduler = self.module.lr_scheduler_factory()
                scheduler = make_scheduler(optimizer) if make_scheduler else None
            with self._criterion(model) as criterion:
                trainer(model, optimizer, criterion, epoch)
            if scheduler is not None:
                scheduler.step()

        return train

    def evaluate(self, model: nn.Module, epoch: int) -> float:  # noqa: ARG002
        """The accuracy by the module's evaluator."""
        return self.accuracy_of(evaluate_samples(self.module.evaluator(), model))

    def evaluation_counts(self) -> bool:
        """A module has no schedule."""
        return True

    def should_stop(self, accuracy: float) -> bool:  # noqa: ARG002
        """A module's trial ends within the budget or at its last epoch."""
        return False

    def _criterion(self, model: nn.Module) -> AbstractContextManager[Any]:
        criterion: Any = self.module.criterion()
        if self.distillation is None or self.teacher is None:
            return nullcontext(criterion)
        if criterion is None:
            raise ModuleError(f"knowledge distillation needs {self.module.__name__}.criterion(); got None")
        return distilling(model, self.teacher, criterion, self.distillation)

    def _optimizer(self, model: nn.Module) -> Optimizer:
        factory = self.module.optimizer_factory()
        if factory is None:
            raise ModuleError(missing_optimizer(self.module, self.algorithm))
        optimizer = factory(model.parameters())
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.lr_factor
        return optimizer


def find_trainer(module: ModuleClass, algorithm: str) -> Trainer | None:
    """The trainer of fine-tuning: that of after compression, else the sparsifying one, else none."""
    return module.post_compress_finetuning_trainer(algorithm) or module.sparsifying_trainer(algorithm)


def missing_optimizer(module: ModuleClass, algorithm: str) -> str:
    """Message for a module that has a trainer and no optimizer."""
    return (
        f"{module.__name__} has a trainer for {algorithm!r} but no optimizer: optimizer_factory() must return a "
        "function of model.parameters(); got None"
    )


@dataclass
class FineTuningResult:
    """The result of fine-tuning; filled in while it runs, so that an interruption loses nothing."""

    accuracy: float = math.nan  # the best so far, in the evaluator's unit; NaN before the first evaluation
    budget: float = -math.inf  # how far that is inside the threshold; >= 0 is feasible
    error: float | None = None  # standard error of that budget; None: not known
    epochs: int = 0  # epochs done
    state: dict[str, Any] | None = None  # the weights that reached it; None while they are the model's own
    interrupted: bool = False  # whether a signal ended it


@dataclass(frozen=True)
class FineTuning:
    """Fine-tuning for at most `epochs` epochs."""

    training: Training  # how the model is trained and evaluated
    threshold: float  # the worst tolerable accuracy
    epochs: int  # the most epochs
    evaluate_first: bool = False  # evaluate before the first epoch, and do not train if that is feasible
    validate_every_n_epochs: int = 1  # also evaluates after the last epoch
    # called after each evaluation with (epoch, accuracy, accuracy budget)
    on_epoch: Callable[[int, float, float], None] = lambda *_: None
    margin_error: Callable[[], float | None] = lambda: None  # standard error of the latest evaluation's budget

    def run(self, model: nn.Module) -> FineTuningResult:
        """Train the model in place; stop at the first feasible evaluation, or at KeyboardInterrupt.

        The model ends with the weights of its best evaluation.
        """
        tuned = FineTuningResult()
        try:
            self._train(model, tuned)
        except KeyboardInterrupt:
            tuned.interrupted = True
        if math.isnan(tuned.accuracy):
            self._evaluate(model, tuned, counts=True)
        elif tuned.state is not None:
            model.load_state_dict(tuned.state)
        return tuned

    def _train(self, model: nn.Module, tuned: FineTuningResult) -> None:
        train_epoch = self.training.begin(model) if self.epochs else None
        if train_epoch is None or self.evaluate_first:
            self._evaluate(model, tuned, counts=train_epoch is None or self.training.evaluation_counts())
        if train_epoch is None or tuned.budget >= 0:
            return
        for epoch in range(self.epochs):
            model.train()
            train_epoch(epoch)
            tuned.epochs = epoch + 1
            last = tuned.epochs == self.epochs
            if tuned.epochs % self.validate_every_n_epochs == 0 or last:
                accuracy = self._evaluate(model, tuned, counts=last or self.training.evaluation_counts())
                if tuned.budget >= 0 or self.training.should_stop(accuracy):
                    return

    def _evaluate(self, model: nn.Module, tuned: FineTuningResult, *, counts: bool) -> float:
        model.eval()
        accuracy = self.training.evaluate(model, tuned.epochs)
        budget = accuracy_margin(accuracy, self.threshold, higher_is_better=self.training.higher_is_better)
        self.on_epoch(tuned.epochs, accuracy, budget)
        if counts and budget > tuned.budget:
            tuned.accuracy, tuned.budget, tuned.error = accuracy, budget, self.margin_error()
            last = budget >= 0 or tuned.epochs >= self.epochs
            tuned.state = None if last else _snapshot(model)
        return accuracy


def _snapshot(model: nn.Module) -> dict[str, Any]:
    # Other values than tensors are extra state, which a module may have.
    state = model.state_dict()
    return {name: value.clone() if torch.is_tensor(value) else copy.deepcopy(value) for name, value in state.items()}
