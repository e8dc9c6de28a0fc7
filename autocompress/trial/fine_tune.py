"""Fine-tuning a compressed model until it is within the budget or its epochs are used up."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.budget import accuracy_budget
from autocompress.trial.training import Training


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
    state: dict[str, Any] | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class FineTuning:
    """How long to fine-tune.

    Attributes:
        training: how the model is trained and evaluated.
        threshold: the worst tolerable accuracy.
        epochs: the most epochs.
        evaluate_first: evaluate before the first epoch, and do not train if that is feasible.
        validate_every_n_epochs: evaluate after each so many epochs, and after the last.
        on_epoch: called after each evaluation with (epoch, accuracy, accuracy budget).
    """

    training: Training
    threshold: float
    epochs: int
    evaluate_first: bool = False
    validate_every_n_epochs: int = 1
    on_epoch: Callable[[int, float, float], None] = lambda *_: None

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
            self._evaluate(model, tuned, counts=True)
        elif tuned.state is not None:
            model.load_state_dict(tuned.state)
        return tuned

    def _train(self, model: nn.Module, tuned: Tuned) -> None:
        train_epoch = self.training.begin(model) if self.epochs else None
        if train_epoch is None or self.evaluate_first:
            self._evaluate(model, tuned, counts=train_epoch is None or self.training.settled())
        if train_epoch is None or tuned.budget >= 0:
            return
        for epoch in range(self.epochs):
            model.train()
            train_epoch(epoch)
            tuned.epochs = epoch + 1
            last = tuned.epochs == self.epochs
            if tuned.epochs % self.validate_every_n_epochs == 0 or last:
                accuracy = self._evaluate(model, tuned, counts=last or self.training.settled())
                if tuned.budget >= 0 or self.training.enough(accuracy):
                    return

    def _evaluate(self, model: nn.Module, tuned: Tuned, *, counts: bool) -> float:
        model.eval()
        accuracy = self.training.evaluate(model, tuned.epochs)
        budget = accuracy_budget(accuracy, self.threshold, higher_is_better=self.training.higher_is_better)
        self.on_epoch(tuned.epochs, accuracy, budget)
        if counts and budget > tuned.budget:
            tuned.accuracy, tuned.budget = accuracy, budget
            last = budget >= 0 or tuned.epochs >= self.epochs
            tuned.state = None if last else _snapshot(model)
        return accuracy


def _snapshot(model: nn.Module) -> dict[str, Any]:
    # Other values than tensors are extra state, which a module may have.
    state = model.state_dict()
    return {name: value.clone() if torch.is_tensor(value) else copy.deepcopy(value) for name, value in state.items()}
