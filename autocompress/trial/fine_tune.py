"""Fine-tuning a compressed model until it is within the budget or its epochs are used up."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.budget import accuracy_budget
from autocompress.compress.hooks import evaluate
from autocompress.compress.module import ModuleClass, Trainer
from autocompress.config import KnowledgeDistillation
from autocompress.errors import ModuleError
from autocompress.trial.distillation import distilling


@dataclass
class Tuned:
    """What fine-tuning came to; filled in while it runs, so that an interruption loses nothing.

    Attributes:
        accuracy: the best so far, in the evaluator's unit; NaN before the first evaluation.
        budget: how far that is inside the threshold; >= 0 is feasible.
        epochs: epochs done.
        state: the weights that reached it; None while they are the model's own.
        interrupted: whether a signal ended it.
    """

    accuracy: float = math.nan
    budget: float = -math.inf
    epochs: int = 0
    state: dict[str, torch.Tensor] | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune.

    Attributes:
        module: the user's module: trainer, optimizer, criterion, evaluator.
        algorithm: name that the trainers are asked for.
        threshold: the worst tolerable accuracy.
        epochs: the most epochs.
        lr_factor: factor on the learning rates.
        evaluate_first: evaluate before the first epoch, and do not train if that is feasible.
        validate_every_n_epochs: evaluate after each so many epochs, and after the last.
        on_epoch: called after each evaluation with (epoch, accuracy, accuracy budget).
        distillation: how the teacher's outputs count; None: they do not.
        teacher: the uncompressed model.
    """

    module: ModuleClass
    algorithm: str
    threshold: float
    epochs: int
    lr_factor: float = 1.0
    evaluate_first: bool = False
    validate_every_n_epochs: int = 1
    on_epoch: Callable[[int, float, float], None] = lambda *_: None
    distillation: KnowledgeDistillation | None = None
    teacher: nn.Module | None = None

    def run(self, model: nn.Module) -> Tuned:
        """Train the model in place, at most `epochs` epochs; leave at the first feasible evaluation.

        The model ends with the weights of its best evaluation. KeyboardInterrupt ends it early with what there is.

        Raises:
            ModuleError: a hook that is needed is missing, or the evaluator returns no finite number.
        """
        tuned = Tuned()
        try:
            self._train(model, tuned)
        except KeyboardInterrupt:
            tuned.interrupted = True
        if math.isnan(tuned.accuracy):
            self._evaluate(model, tuned)
        elif tuned.state is not None:
            model.load_state_dict(tuned.state)
        return tuned

    def _train(self, model: nn.Module, tuned: Tuned) -> None:
        trainer = find_trainer(self.module, self.algorithm)
        if trainer is None or self.epochs == 0 or self.evaluate_first:
            self._evaluate(model, tuned)
        if trainer is None or self.epochs == 0 or tuned.budget >= 0:
            return
        optimizer = self._optimizer(model)
        make_scheduler = self.module.lr_scheduler_factory()
        scheduler = make_scheduler(optimizer) if make_scheduler else None
        for epoch in range(self.epochs):
            model.train()
            with self._criterion(model) as criterion:
                trainer(model, optimizer, criterion, epoch)
            if scheduler is not None:
                scheduler.step()
            tuned.epochs = epoch + 1
            if tuned.epochs % self.validate_every_n_epochs == 0 or tuned.epochs == self.epochs:
                self._evaluate(model, tuned)
                if tuned.budget >= 0:
                    return

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

    def _evaluate(self, model: nn.Module, tuned: Tuned) -> None:
        model.eval()
        accuracy = evaluate(self.module.evaluator(), model)
        budget = accuracy_budget(accuracy, self.threshold, higher_is_better=self.module.higher_is_better)
        self.on_epoch(tuned.epochs, accuracy, budget)
        if budget > tuned.budget:
            tuned.accuracy, tuned.budget = accuracy, budget
            last = budget >= 0 or tuned.epochs >= self.epochs
            tuned.state = None if last else copy.deepcopy(model.state_dict())


def find_trainer(module: ModuleClass, algorithm: str) -> Trainer | None:
    """The trainer of fine-tuning: that of after compression, else the sparsifying one, else none."""
    return module.post_compress_finetuning_trainer(algorithm) or module.sparsifying_trainer(algorithm)


def missing_optimizer(module: ModuleClass, algorithm: str) -> str:
    """Message for a module that has a trainer and no optimizer."""
    return (
        f"{module.__name__} has a trainer for {algorithm!r} but no optimizer: optimizer_factory() must return a "
        "function of model.parameters(); got None"
    )
