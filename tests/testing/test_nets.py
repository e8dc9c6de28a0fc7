"""The nets of the zoo: what goes in and comes out, and the layers that make each one's kind."""

import pytest
import torch
from torch import nn

from autocompress.testing import nets

NETS = {
    "cnn": (lambda: nets.cnn(nn.BatchNorm2d), (3, 16, 16), 10),
    "cnn without norms": (lambda: nets.cnn(nn.Identity), (3, 16, 16), 10),
    "vgg": (nets.vgg_bn, (3, 16, 16), 10),
    "grouped": (nets.grouped_cnn, (3, 16, 16), 10),
    "custom": (lambda: nets.custom(nn.Linear), (3, 16, 16), 10),
    "perceptron": (nets.perceptron, (12,), 3),
    "encoder": (nets.Encoder, (6, 16), 10),
}


@pytest.mark.parametrize("name", NETS)
def test_shapes_and_independence_of_samples(name):
    build, shape, outputs = NETS[name]
    model, x = build().eval(), torch.randn(3, *shape)
    answer = model(x)
    assert answer.shape == (3, outputs)
    assert torch.allclose(model(x[1:2]), answer[1:2], atol=1e-5)
    answer.sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_kinds():
    assert any(layer.groups == 4 for layer in nets.grouped_cnn().modules() if isinstance(layer, nn.Conv2d))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in nets.cnn(nn.Identity).modules())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in nets.cnn(nn.BatchNorm2d).modules()) == 3
