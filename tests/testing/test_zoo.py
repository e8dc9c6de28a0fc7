"""The nets of the zoo: what goes in and comes out, and the layers that make each one's kind."""

import pytest
import torch
from torch import nn

from autocompress.testing import zoo
from autocompress.testing.zoo import ZOO

NETS = {
    "cnn": (lambda: zoo.cnn(nn.BatchNorm2d), (3, 16, 16), 10),
    "cnn without norms": (lambda: zoo.cnn(nn.Identity), (3, 16, 16), 10),
    "vgg": (zoo.vgg_bn, (3, 16, 16), 10),
    "grouped": (zoo.grouped_cnn, (3, 16, 16), 10),
    "custom": (lambda: zoo.custom(nn.Linear), (3, 16, 16), 10),
    "perceptron": (zoo.perceptron, (12,), 3),
    "encoder": (zoo.Encoder, (6, 16), 10),
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
    assert any(layer.groups == 4 for layer in zoo.grouped_cnn().modules() if isinstance(layer, nn.Conv2d))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in zoo.cnn(nn.Identity).modules())
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in zoo.cnn(nn.BatchNorm2d).modules()) == 3


@pytest.mark.parametrize("name", ZOO)
def test_modules(name):
    module = ZOO[name]
    model, again = module.model(), module.model()
    assert all(
        torch.equal(*pair) for pair in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not model.training
    accuracy = module.evaluator()(model)
    assert accuracy == module.evaluator()(again)
    assert model(module.example_inputs()).shape == (1, module.outputs)
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    optimizer = module.optimizer_factory()(model.parameters())
    module.sparsifying_trainer("l2")(model.train(), optimizer, module.criterion(), 0)
    assert all(
        not torch.equal(parameter, before[key]) for key, parameter in model.named_parameters() if "bias" not in key
    )


def test_random_numbers_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ZOO["cnn"].model()
    ZOO["cnn"].data()
    assert torch.equal(torch.get_rng_state(), before)
