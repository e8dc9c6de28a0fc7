"""Parametrizations of ours: taken off with what they made of the weights, or without."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from autocompress.compression.base import (
    WeightTransform,
    compressor,
    computed_by,
    computed_parameters,
    fold_parametrizations,
    recalibrate,
    strip_parametrizations,
    transforms,
)
from autocompress.errors import ConfigError
from autocompress.registry import algorithms

from .nets import build
from .structures import COMPUTED


@pytest.mark.parametrize(("how", "words"), COMPUTED.values(), ids=COMPUTED)
def test_what_computes_a_weight_is_named(how: Callable[[nn.Conv2d], object], words: str) -> None:
    layer = nn.Conv2d(3, 4, 3)
    assert computed_parameters(layer) == {}
    how(layer)
    assert computed_parameters(layer) == {"weight": words}
    assert computed_by(layer) == words
    assert computed_by(layer, "bias") is None


def test_what_we_compute_ourselves_is_none_of_the_users() -> None:
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", Halve())
    assert computed_parameters(layer) == {}


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_has_a_compressor(name: str) -> None:
    assert type(compressor(name)) is type(algorithms()[name].compressor())


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'l0'"):
        compressor("l0")


def test_a_mix_has_none() -> None:
    with pytest.raises(ConfigError, match=r"a mix has no compressor of its own, its parts have; got 'l2\+qat'"):
        compressor("l2+qat")


def test_only_the_file_that_is_needed_is_imported() -> None:
    code = (
        "import sys\n"
        "from autocompress.compression.base import compressor\n"
        "compressor('level')\n"
        "assert 'torch_pruning' not in sys.modules\n"
        "assert 'torchao' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BATCHES = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 + 1 for seed in range(3)]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, torch.zeros(4)), lambda x: [x, torch.zeros(4)]])
def test_statistics_become_the_average_over_the_batches(wrap: object) -> None:
    model = build("plain")
    model.bn1.running_mean.fill_(100)
    recalibrate(model, map(wrap, BATCHES))
    with torch.no_grad():
        inputs = [model.conv1(batch) for batch in BATCHES]
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, means)
    torch.testing.assert_close(model.bn1.running_var, variances)
    assert model.bn1.num_batches_tracked == 3


def test_everything_else_is_left_as_it_was() -> None:
    model = build("plain").train()
    model.bn2.eval()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    recalibrate(model, BATCHES)
    assert model.training
    assert model.dropout.training
    assert not model.bn2.training
    assert model.bn1.momentum == 0.1
    assert all(torch.equal(value, parameters[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())


def test_without_batches_the_statistics_stay() -> None:
    model = build("plain")
    model.bn1.running_mean.fill_(7)
    recalibrate(model, [])
    assert bool((model.bn1.running_mean == 7).all())


def test_without_batchnorm_no_batch_is_drawn() -> None:
    batches = iter(BATCHES)
    recalibrate(build("no_norm"), batches)
    assert len(list(batches)) == 3


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    with pytest.raises(RuntimeError):
        recalibrate(model, [torch.zeros(2, 9)])
    assert model[1].training
    assert model[1].momentum == 0.1


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
