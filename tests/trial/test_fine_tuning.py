"""Fine-tuning: how long it trains, what counts, and which weights are kept."""

import math

import pytest
import torch
from torch import nn

from autocompress.errors import ModuleError
from autocompress.testing import CurveModule, cliff
from autocompress.testing.zoo import ZOO
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult, ModuleTraining, find_trainer
from autocompress.trial.optimization import Optimization


class Scripted:
    """Training whose accuracies are given: the one before any epoch first. The model's weight is its epoch."""

    def __init__(
        self,
        *accuracies,
        higher_is_better=True,
        settled_at=0,
        enough_at=math.inf,
        interrupted_at=math.inf,
        mean=None,
    ):
        self.mean, self.cycles = mean, []
        self.accuracies, self.higher_is_better, self.settled_at = accuracies, higher_is_better, settled_at
        self.enough_at, self.interrupted_at, self.modes, self.epoch = enough_at, interrupted_at, [], 0

    def begin(self, model, epochs):
        self.cycles.append(epochs)

        def train(epoch):
            if epoch + 1 >= self.interrupted_at:
                raise KeyboardInterrupt
            self.modes.append(model.training)
            self.epoch = epoch + 1
            nn.init.constant_(model.weight, self.epoch)

        return train

    def evaluate(self, model, epoch):
        self.modes.append(model.training)
        return self.accuracies[epoch] if model.weight < 100 else self.mean

    def average(self, model):
        if self.mean is not None:
            nn.init.constant_(model.weight, 100)
        return self.mean is not None

    def evaluation_counts(self):
        return self.epoch >= self.settled_at

    def should_stop(self, accuracy):
        return self.epoch >= self.enough_at


def run(*accuracies, threshold=0.8, **options):
    scripted = {
        name: options.pop(name)
        for name in ("higher_is_better", "settled_at", "enough_at", "interrupted_at", "mean")
        if name in options
    }
    training, model, told = Scripted(*accuracies, **scripted), nn.Linear(1, 1), []
    nn.init.constant_(model.weight, 0)
    error = options.pop("accuracy_error", None)
    options = {"epochs": len(accuracies) - 1, "margin_error": lambda: error, **options}
    tuned = FineTuning(training, threshold, on_epoch=lambda *each: told.append(each), **options).run(model)
    return tuned, int(model.weight), told, training


def test_it_ends_at_the_first_epoch_within_the_budget():
    tuned, weight, told, training = run(0.1, 0.5, 0.85, 0.99)
    assert (tuned.accuracy, tuned.epochs, weight) == (0.85, 2, 2)
    assert tuned.budget == pytest.approx(0.05)
    assert [epoch for epoch, *_ in told] == [1, 2]
    assert training.modes == [True, False] * 2


def test_the_weights_of_the_best_evaluation_are_kept():
    tuned, weight, _, _ = run(0.1, 0.5, 0.7, 0.6, 0.65)
    assert (tuned.accuracy, tuned.epochs, weight) == (0.7, 4, 2)


def test_the_best_one_may_be_the_lowest():
    tuned, weight, _, _ = run(9, 3, 2, 4, threshold=1.0, higher_is_better=False)
    assert (tuned.accuracy, tuned.budget, weight) == (2, -1.0, 2)


def test_nothing_is_trained_that_is_within_the_budget_already():
    tuned, weight, told, _ = run(0.9, 0.95, evaluate_first=True)
    assert (tuned.accuracy, tuned.epochs, weight) == (0.9, 0, 0)
    assert [epoch for epoch, *_ in told] == [0]


def test_without_epochs_it_is_evaluated():
    tuned, weight, told, _ = run(0.3)
    assert (tuned.accuracy, tuned.epochs, weight, len(told)) == (0.3, 0, 0, 1)


def test_every_other_epoch_and_the_last_are_evaluated():
    _, _, told, _ = run(*[0.1] * 6, validate_every_n_epochs=2)
    assert [epoch for epoch, *_ in told] == [2, 4, 5]


def test_nothing_counts_while_a_schedule_moves_the_rate():
    tuned, weight, _, _ = run(0.1, 0.95, 0.7, 0.6, settled_at=2)
    assert (tuned.accuracy, weight) == (0.7, 2)


def test_the_user_may_end_it():
    assert run(0.1, 0.2, 0.3, 0.4, enough_at=2)[0].epochs == 2


def test_an_interruption_keeps_what_there_is():
    tuned, weight, _, _ = run(0.1, 0.5, 0.4, 0.3, interrupted_at=3)
    assert (tuned.interrupted, tuned.accuracy, tuned.epochs, weight) == (True, 0.5, 2, 1)
    tuned, weight, _, _ = run(0.1, 0.5, interrupted_at=1)
    assert (tuned.interrupted, tuned.accuracy, weight) == (True, 0.1, 0), "nothing had been evaluated yet"


def test_a_near_miss_has_a_second_chance_from_its_best_weights():
    tuned, weight, _, training = run(
        0.1, 0.79, 0.75, 0.78, 0.81, 0.9, epochs=3, second_chance_epochs=2, accuracy_error=0.02
    )
    assert training.cycles == [3, 2]
    assert (tuned.accuracy, tuned.epochs, tuned.second_chance_epochs, weight) == (0.81, 4, 1, 4)


@pytest.mark.parametrize(("best", "error"), [(0.77, 0.02), (0.79, None), (0.8, 0.02)])
def test_there_is_no_second_chance_for_others(best, error):
    options = {"epochs": 2, "second_chance_epochs": 2, "accuracy_error": error}
    tuned, _, _, training = run(0.1, best, 0.7, 0.99, 0.99, **options)
    assert (tuned.accuracy, training.cycles, tuned.second_chance_epochs) == (best, [2], 0)


def test_a_margin_may_be_required():
    tuned, _, _, _ = run(0.1, 0.79, 0.805, 0.82, 0.9, required_margin=lambda: 0.01)
    assert (tuned.accuracy, tuned.epochs, tuned.is_feasible, tuned.required) == (0.82, 3, True, 0.01)
    options = {"epochs": 2, "second_chance_epochs": 2, "accuracy_error": 0.01, "required_margin": lambda: 0.01}
    tuned, _, _, training = run(0.1, 0.79, 0.805, 0.82, 0.9, **options)
    assert (tuned.accuracy, training.cycles) == (0.82, [2, 2]), "inside by less than is required is a near miss"


def test_a_second_chance_that_makes_it_worse_changes_nothing():
    tuned, weight, _, _ = run(0.1, 0.79, 0.75, 0.3, 0.4, epochs=2, second_chance_epochs=2, accuracy_error=0.02)
    assert (tuned.accuracy, tuned.epochs, tuned.second_chance_epochs, weight) == (0.79, 4, 2, 1)


def test_training_to_the_end_keeps_the_best():
    tuned, weight, told, _ = run(0.9, 0.85, 0.95, 0.93, evaluate_first=True, leaves_early=False)
    assert (tuned.accuracy, tuned.epochs, weight, len(told)) == (0.95, 3, 2, 4)


@pytest.mark.parametrize(("mean", "kept"), [(0.75, (0.75, 100)), (0.65, (0.7, 2))])
def test_averaged_weights_count_where_they_are_better(mean, kept):
    tuned, weight, _, _ = run(0.1, 0.5, 0.7, 0.6, mean=mean)
    assert ((tuned.accuracy, weight), tuned.epochs) == (kept, 3)


def test_before_anything_is_known():
    assert math.isnan(FineTuningResult().accuracy)
    assert FineTuningResult().budget == -math.inf


def test_a_modules_hooks_train_with_their_learning_rate():
    rates = []

    class Noting(ZOO["regression"]):
        @classmethod
        def post_compress_finetuning_trainer(cls, compress_algorithm_name):
            return lambda model, optimizer, criterion, epoch: rates.append(optimizer.param_groups[0]["lr"])

        @classmethod
        def lr_scheduler_factory(cls):
            return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)

    train = ModuleTraining(Noting, "l2", Optimization(lr_factor=0.5)).begin(Noting.model(), 3)
    for epoch in range(3):
        train(epoch)
    assert rates == pytest.approx([5e-4, 5e-5, 5e-6])


def test_a_module_without_a_trainer_is_not_trained():
    bare = type("Bare", (CurveModule,), {"post_compress_finetuning_trainer": classmethod(lambda *_: None)})
    assert find_trainer(bare, "l2") is None
    assert ModuleTraining(bare, "l2").begin(bare.model(), 3) is None


def test_a_trainer_needs_an_optimizer():
    without = type(
        "Without", (CurveModule,), {"optimizer_factory": classmethod(lambda _: None), "curve": staticmethod(cliff(0.5))}
    )
    with pytest.raises(ModuleError, match="Without has a trainer for 'l2' but no optimizer"):
        ModuleTraining(without, "l2").begin(without.model(), 1)(0)


def test_what_works_without_training_has_no_trainer():
    assert find_trainer(ZOO["cnn"], "qat") is not None
    assert find_trainer(ZOO["cnn"], "ptq") is None
