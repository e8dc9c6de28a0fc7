"""Parametrizations of ours: taken off with what they made of the weights, or without."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from autocompress.compression.parametrizations import (
    WeightTransform,
    fold_parametrizations,
    strip_parametrizations,
    transforms,
)


class Halve(WeightTransform):
    def forward(self, weight):
        return weight / 2


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    parametrize.register_parametrization(model[0], "weight", Halve())
    return model


def test_folding_keeps_outputs_names_and_order(net):
    x, plain = torch.randn(5, 3), nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    before, weight = net(x), net[0].weight.detach().clone()
    assert fold_parametrizations(net) is net
    assert torch.equal(net(x), before)
    assert torch.equal(net[0].weight, weight)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert not transforms(net[0])
    assert type(net[0]) is nn.Linear


def test_taking_them_off_bare_leaves_the_weights_below(net):
    below = net[0].parametrizations.weight.original.detach().clone()
    strip_parametrizations(net)
    assert torch.equal(net[0].weight, below)
    assert [name for name, _ in net.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_copy_keeps_its_own(net):
    other = copy.deepcopy(net)
    fold_parametrizations(net)
    assert [type(step) for step in transforms(other[0])] == [Halve]


def test_a_weight_in_two_places_is_folded_once(net):
    shared = nn.Sequential(net[0], net[0])
    value = net[0].weight.detach().clone()
    fold_parametrizations(shared)
    assert torch.equal(shared[1].weight, value), "half, and not a quarter"


def test_others_parametrizations_stay():
    model = parametrizations.weight_norm(nn.Linear(3, 4))
    fold_parametrizations(model)
    strip_parametrizations(model)
    assert parametrize.is_parametrized(model, "weight")
