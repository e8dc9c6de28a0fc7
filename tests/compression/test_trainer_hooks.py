"""The user's trainer, driven by algorithms that look at data."""

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.trainer_hooks import (
    calibration_inputs,
    input_batches,
    recalibration_batches,
    run_batches,
    run_epochs,
    run_inputs,
    trainer_of,
)
from autocompress.errors import ModuleError
from autocompress.testing.zoo import ZOO

Regression = ZOO["regression"]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def is_same(before, model):
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class WithoutData(Regression):
    @classmethod
    def calibration_data(cls):
        return None


class NeverSteps(Regression):
    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        return lambda model, optimizer, criterion, epoch: None


def test_epochs_train_and_tell_each_step():
    model, steps = Regression.model(), []
    before = weights(model)
    run_epochs(Regression, "slim", model, 3, lambda: steps.append(model[0].weight.grad.abs().sum().item()))
    assert len(steps) == 3 * Regression.batches
    assert all(steps), "gradients are there"
    assert not is_same(before, model)


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_batches_are_shown_without_a_step(batches):
    model, steps = Regression.model(), []
    before = weights(model)
    run_batches(Regression, "taylorfo", model, batches, lambda: steps.append(float(model[0].weight.grad.abs().sum())))
    assert len(steps) == batches, "over several epochs where one has fewer"
    assert all(steps)
    assert is_same(before, model)


def test_inputs_come_from_the_calibration_data():
    found = input_batches(Regression, "qat", Regression.model(), 1)
    ((given,),) = found
    assert torch.equal(given, Regression.data()[0][0])


def test_inputs_come_from_the_trainer_where_there_is_no_data():
    model = Regression.model()
    before = weights(model)
    found = input_batches(WithoutData, "qat", model, 10)
    assert [given.shape for (given,) in found] == [x.shape for x, _ in Regression.data()], "one epoch"
    assert all(torch.equal(given, x) for (given,), (x, _) in zip(found, Regression.data(), strict=True))
    assert is_same(before, model), "a copy is fed"
    assert not model._forward_pre_hooks


class ByName(WithoutData):
    @classmethod
    def model(cls):
        return Named()

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        def train(model, optimizer, criterion, epoch):
            for x, y in cls.data():
                optimizer.zero_grad()
                criterion(model(scale=torch.ones(()), x=x), y).backward()
                optimizer.step()

        return train


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Regression.model()

    def forward(self, x, shift=0.0, scale=None):
        return self.net(x) * scale + shift


def test_inputs_that_the_trainer_passes_by_name():
    found = input_batches(ByName, "qat", Named(), 10)
    assert all(torch.equal(x, wanted) for (x, _, _), (wanted, _) in zip(found, Regression.data(), strict=True))
    assert [(shift, float(scale)) for _, shift, scale in found] == [(0.0, 1.0)] * len(found)


def test_statistics_are_estimated_on_the_calibration_data_or_on_what_the_trainer_passes():
    given = list(recalibration_batches(Regression, "l2", Regression.model()))
    assert all(torch.equal(mine[0], its[0]) for mine, its in zip(given, Regression.calibration_data(), strict=True))
    model = WithoutData.model()
    before = weights(model)
    found = list(recalibration_batches(WithoutData, "l2", model))
    assert [len(batch) for batch in found] == [1] * len(found)
    assert all(torch.equal(batch[0], x) for batch, (x, _) in zip(found, WithoutData.data(), strict=True))
    assert is_same(before, model)
    untrained = type("Untrained", (WithoutData,), {"sparsifying_trainer": classmethod(lambda *_: None)})
    assert list(recalibration_batches(untrained, "l2", model)) == []


def test_the_trainer_is_called_when_a_batch_is_drawn():
    recalibration_batches(NeverSteps, "l2", NeverSteps.model())
    without = type("Without", (NeverSteps,), {"calibration_data": classmethod(lambda _: None)})
    batches = recalibration_batches(without, "l2", without.model())
    with pytest.raises(ModuleError, match="must step its optimizer"):
        list(batches)


def test_without_a_module_the_examples_are_calibrated_on():
    inputs = (torch.ones(1, 12),)
    assert calibration_inputs(CompressionRequest("qat", (), inputs), Regression.model()) == [inputs]


def test_data_without_a_batch_is_refused():
    empty = type("Empty", (Regression,), {"calibration_data": classmethod(lambda cls: [])})
    with pytest.raises(ModuleError, match=r"Empty\.calibration_data\(\) must have at least one batch"):
        input_batches(empty, "qat", Regression.model(), 1)


def test_a_trainer_that_never_steps_is_refused():
    with pytest.raises(ModuleError, match="the trainer of NeverSteps for 'slim' must step its optimizer; it never did"):
        run_epochs(NeverSteps, "slim", Regression.model(), 1, lambda: None)


def test_the_sparsifying_trainer_goes_first():
    def sparsifying():
        """A trainer."""

    def tuning():
        """Another one."""

    def module(first):
        hooks = {"sparsifying_trainer": first, "post_compress_finetuning_trainer": tuning}
        return type("Mine", (), {name: classmethod(lambda cls, _, hook=hook: hook) for name, hook in hooks.items()})

    assert trainer_of(module(sparsifying), "slim") is sparsifying
    assert trainer_of(module(None), "slim") is tuning


def test_models_are_shown_inputs_in_eval_mode_and_keep_theirs():
    model, modes = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).train(), []
    model.register_forward_pre_hook(lambda module, _: modes.append((module.training, torch.is_grad_enabled())))
    run_inputs(model, [(torch.ones(3, 2),), (torch.zeros(3, 2),)])
    assert modes == [(False, False)] * 2
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
