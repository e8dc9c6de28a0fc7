"""Sizes of layers: they add up to the model's."""

import pytest
import torch
from torch import nn

from autocompress.compress.breakdown import layer_sizes
from autocompress.compress.hooks import example_inputs
from autocompress.compress.measure import macs, nonzero_parameters
from autocompress.testing.zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_layers_add_up_to_the_model(name):
    entry = ZOO[name]
    model, inputs = entry.model(), example_inputs(entry)
    layers = layer_sizes(model, inputs)
    assert sum(layer.parameters for layer in layers) == nonzero_parameters(model)
    assert sum(layer.macs for layer in layers) <= macs(model, inputs)


def test_each_layer_is_measured():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2, bias=False))
    with torch.no_grad():
        model[3].weight[0] = 0
    conv, linear = layer_sizes(model, (torch.zeros(1, 1, 4, 4),))
    assert (conv.name, conv.kind, conv.parameters, conv.macs) == ("0", "Conv2d", 40, 4 * 9 * 4)
    assert (linear.name, linear.kind, linear.parameters, linear.macs) == ("3", "Linear", 16, 32)
    assert conv.seconds > 0
    assert not model[0]._forward_hooks, "no hook is left"
