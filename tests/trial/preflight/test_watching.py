"""What a model does while it is evaluated."""

import pytest
import torch
from torch import nn

from autocompress.errors import ModuleError
from autocompress.trial.preflight.watching import ForwardMonitor
from tests.trial.preflight_modules import Right, accuracy, data


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
