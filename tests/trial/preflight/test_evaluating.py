"""How an evaluator is looked at: how often it is run, and what is seen."""

import random
import time

import pytest
import torch

from autocompress.errors import ModuleError
from autocompress.trial.preflight import evaluating
from autocompress.trial.tasks import measure_baseline
from tests.trial.preflight_modules import CLASSES, FEATURES, SPACE, Right, accuracy, data, loss, module


def slow(evaluate, seconds):
    def evaluator(model):
        x, _ = data()[1]
        for part in x.split(24):
            model(part)
            time.sleep(seconds / 10)
        return evaluate(model)

    return evaluator


@pytest.mark.parametrize("seconds", [0.3, *(pytest.param(each, marks=pytest.mark.slow) for each in (1.0, 1.5))])
def test_it_takes_no_more_than_two_evaluations_a_step_and_two_seconds(seconds):
    found = measure_baseline(module(evaluator=slow(accuracy, seconds)), SPACE).preflight
    assert found.seconds < 2 * found.evaluation_seconds + found.step_seconds + 2
    assert found.damaged == pytest.approx(1 / CLASSES, abs=0.01), "the direction is looked at all the same"


@pytest.mark.slow
def test_a_slow_evaluator_that_is_noisy_is_refused():
    def evaluator(model):
        for _ in range(10):
            model(torch.randn(2, FEATURES))
            time.sleep(0.14)
        return accuracy(model) - 0.1 * random.random()

    with pytest.raises(ModuleError, match="must give the same model the same accuracy"):
        measure_baseline(module(evaluator=evaluator), SPACE)


@pytest.mark.slow
def test_a_slow_evaluator_whose_direction_is_wrong_is_refused():
    with pytest.raises(ModuleError, match="higher_is_better must be the direction"):
        measure_baseline(module(evaluator=slow(loss, 1.4)), SPACE)


def refusing_hooks(seconds, kind=accuracy):
    """An evaluator that scripts the model, as far as hooks are concerned."""
    calls = []

    def evaluator(model):
        calls.append(1)
        model(data()[1][0])  # before it is scripted
        if model._forward_pre_hooks or model._forward_hooks:
            raise RuntimeError("hooks cannot be scripted")
        time.sleep(seconds)
        return kind(model)

    return evaluator, calls


@pytest.mark.slow
def test_a_slow_evaluator_that_stumbles_over_hooks_is_not_refused():
    evaluator, calls = refusing_hooks(1.1)
    found = measure_baseline(module(evaluator=evaluator), SPACE).preflight
    assert len(calls) == 3, "one that fails, and two of the same model"
    assert found.noise == 0
    assert any("direction of Mine.evaluator() was not checked" in warning for warning in found.warnings)
    assert 1.1 <= found.evaluation_seconds < 2


def test_the_second_try_is_timed_and_seeded_alone():
    failed = []

    def evaluator(model):
        if model._forward_pre_hooks:
            failed.append(1)
            model(torch.zeros(500, FEATURES))
            random.random()
            time.sleep(0.8)
            raise RuntimeError("hooks")
        return accuracy(model) - 1e-3 * random.random()

    found = measure_baseline(module(evaluator=evaluator), SPACE).preflight
    assert len(failed) == 1
    assert found.evaluation_seconds < 0.7
    random.seed(0)
    assert found.accuracies[0] == accuracy(Right.model()) - 1e-3 * random.random()


def test_an_evaluator_that_fails_late_is_not_run_again(monkeypatch):
    monkeypatch.setattr(evaluating, "_QUICK_FAILURE", 0.2)
    calls = []

    def evaluator(model):
        calls.append(1)
        time.sleep(0.3)
        raise RuntimeError("the last batch is broken")

    with pytest.raises(ModuleError, match="it raised RuntimeError: the last batch is broken"):
        measure_baseline(module(evaluator=evaluator), SPACE)
    assert len(calls) == 1
