"""A module's trainers, each for one step, and what follows from it."""

import time

import pytest
import torch
from torch.nn import functional

from autocompress.errors import ModuleError
from autocompress.trial.preflight.training import check_step, training_steps
from tests.trial.preflight_modules import TRAINER, Right, batches, module, sgd, train


def judged(trainer):
    ((name, step),) = training_steps(module(**{TRAINER: trainer}), ["l2"], Right.model())
    return name, check_step(name, step, "optimizer_factory()", "criterion()")


def test_a_step_with_the_trainer_of_each_algorithm():
    original = Right.model()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    ((name, step),) = training_steps(Right, ["l2"], original)
    assert "post_compress_finetuning_trainer('l2')" in name
    assert step.moved
    assert step.loss == pytest.approx(functional.cross_entropy(original(batches()[0][0]), batches()[0][1]).item())
    assert check_step(name, step, "optimizer_factory()", "criterion()") == []
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items()), "a copy is trained"


def test_a_trainer_that_trains_another_model_is_refused():
    other = Right.model()
    optimizer = sgd(other.parameters())
    with pytest.raises(ModuleError, match="must train the model that it is given"):
        judged(lambda model, _, criterion, epoch: train(other, optimizer, criterion, epoch))


def test_a_trainer_without_a_step_is_refused():
    with pytest.raises(ModuleError, match="returned without stepping the optimizer"):
        judged(lambda model, optimizer, criterion, epoch: None)


def test_a_trainer_that_gathers_gradients_for_long_is_told_in_a_warning():
    def gathers(model, optimizer, criterion, epoch):
        while True:
            x, y = batches()[0]
            time.sleep(0.2)
            criterion(model(x), y).backward()

    _, (warning,) = judged(gathers)
    assert "takes no optimizer step within 1.5 s of its first batch" in warning
