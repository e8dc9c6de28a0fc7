"""What a model does while it is evaluated."""

import random
import time

import pytest
import torch
from torch import nn

from autocompress.errors import ModuleError
from autocompress.trial.preflight import evaluation
from autocompress.trial.preflight.evaluation import ForwardMonitor
from autocompress.trial.tasks import measure_baseline
from tests.trial.preflight_modules import CLASSES, FEATURES, SPACE, Right, accuracy, data, loss, module


class WithoutDoubles(torch.Tensor):
    """A tensor of a device that has no doubles, as MPS has none."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.Tensor.double:
            raise TypeError("the device does not support float64")
        answer = super().__torch_function__(function, types, args, kwargs or {})
        return answer.as_subclass(torch.Tensor) if function is torch.Tensor.cpu else answer


def test_outputs_of_a_device_without_doubles():
    def evaluator(model):
        with torch.no_grad():
            model(data()[1][0].as_subclass(WithoutDoubles))
        return accuracy(model)

    watch, model = ForwardMonitor("evaluator()"), Right.model()
    with watch.over(model):
        evaluator(model)
    assert watch.samples == 2 * len(data()[1][0])
    assert len(watch.sums) == 4
    assert watch.sums[:2] == watch.sums[2:]


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Linear(2, 2), nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.layer(x))


def watched(model, *batches):
    watch = ForwardMonitor("evaluator()")
    with watch.over(model):
        for batch in batches:
            model(batch)
    return watch


def test_samples_are_counted_and_the_first_batches_compared():
    model = Two().eval()
    first, same = (watched(model, torch.ones(3, 2), torch.zeros(5, 2)) for _ in range(2))
    assert first.samples == 8
    assert first.begins_like(same)
    assert not first.begins_like(watched(model, torch.ones(3, 2), torch.full((5, 2), 0.1)))
    assert not first.begins_like(watched(model)), "of nothing nothing is known"
    assert watched(model).until_called is None


def test_dropout_in_training_mode_is_named():
    model = Two().train()
    with pytest.raises(ModuleError, match=r"evaluator\(\) must evaluate in eval\(\) mode; dropout \(Dropout\) is in"):
        watched(model, torch.ones(1, 2)).compare(model, model)


def test_a_parameter_that_changed_is_named():
    model, original = Two().eval(), Two().eval()
    original.load_state_dict(model.state_dict())
    watch = watched(model, torch.ones(1, 2))
    watch.compare(model, original)
    with torch.no_grad():
        model.layer.bias += 1
    with pytest.raises(ModuleError, match=r"must not change the model; it changes 'layer.bias'"):
        watch.compare(model, original)


def test_it_leaves_no_hooks():
    model = Two()
    watched(model, torch.ones(1, 2))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


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
    monkeypatch.setattr(evaluation, "_QUICK_FAILURE", 0.2)
    calls = []

    def evaluator(model):
        calls.append(1)
        time.sleep(0.3)
        raise RuntimeError("the last batch is broken")

    with pytest.raises(ModuleError, match="it raised RuntimeError: the last batch is broken"):
        measure_baseline(module(evaluator=evaluator), SPACE)
    assert len(calls) == 1
