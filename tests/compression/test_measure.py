"""Latency is measured in turns, warmed up, and as medians."""

from __future__ import annotations

import copy
import re
import time
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from autocompress.compression.measure import (
    ReferenceModel,
    layer_sizes,
    macs,
    measure,
    measure_latency,
    nonzero_parameters,
    parameters,
    weights_bytes,
)
from autocompress.compression.module import example_inputs
from autocompress.errors import CompressionError
from autocompress.testing.zoo import ZOO

from .nets import IMAGE, Words, build
from .structures import ViewOfParameter


def test_a_network_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 5))
    with torch.no_grad():
        model[2].weight[:2] = 0
    measured = measure(model, IMAGE)
    assert measured.parameters == 4 * 27 + 4 + 5 * 256 + 5
    assert measured.nonzero_parameters == measured.parameters - 2 * 256
    assert measured.macs == 64 * 4 * 27 + 5 * 256


def test_a_view_of_a_parameter_may_be_given_to_a_module() -> None:
    model = ViewOfParameter()
    x = torch.randn(1, 6, 12)
    assert macs(model, (x,)) == 6 * 12 * 16 + 7 * 2 * 16 * 24 + 16 * 5
    assert sum(layer.macs for layer in layer_sizes(model, (x,))) == macs(model, (x,))
    assert all(parameter.requires_grad for parameter in model.parameters())


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).view(len(x), 8, 8, 8)


def test_the_operation_that_fails_is_named_with_the_scopes_to_exclude() -> None:
    model = nn.Sequential(OrderedDict(block=Halves(), pool=nn.Flatten()))
    reference = ReferenceModel.measured(model, IMAGE)
    smaller = copy.deepcopy(model)
    smaller.block.conv = nn.Conv2d(3, 7, 1)
    with pytest.raises(CompressionError) as caught:
        reference.require_shapes(smaller)
    assert re.search(
        r"forward pass fails at `return self\.conv\(x\)\.view\(len\(x\), 8, 8, 8\)` \(test_measure\.py, line \d+\): "
        r'RuntimeError: shape .*; exclude its layers: ignored_scopes=\["block"\]$',
        str(caught.value),
    )
    with pytest.raises(CompressionError, match=r'ignored_scopes=\["conv"\]$'):
        ReferenceModel.measured(model.block, IMAGE).require_shapes(smaller.block)


def test_shared_parameters_count_once() -> None:
    model = Words()
    assert parameters(model) == nonzero_parameters(model) == 11 * 8 + (8 * 16 + 16) + (16 * 8 + 8)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    model = build("residual")
    with (tmp_path / "weights.pt").open("wb") as file:
        torch.save(model.state_dict(), file)
    assert weights_bytes(model) == (tmp_path / "weights.pt").stat().st_size


def test_attention_is_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert macs(layer, (torch.randn(1, 4, 8),)) >= 4 * (4 * 8 * 8 + 2 * 8 * 16)
    assert torch.backends.mha.get_fastpath_enabled()


def test_modes_are_left_as_they_were() -> None:
    model = build("plain").train()
    model.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, IMAGE)
    assert model.training
    assert not model.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Sleeps(nn.Module):
    """Takes as long as it is told, the first passes longer."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds, self.modes = list(seconds), []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0])
        return x


def test_medians_without_the_warm_up():
    slow, fast = Sleeps(0.2, 0.2, 0.03), Sleeps(0.2, 0.2, 0.2, 0.003)
    found = measure_latency(fast, slow, (torch.zeros(1),), warm_up=2, runs=5)
    assert 0.003 <= found.seconds < 0.2, found
    assert 0.03 <= found.original_seconds < 0.2, found
    assert len(slow.modes) == len(fast.modes) == 7


def test_modes_and_gradients():
    model = Sleeps(0.0)
    model.train()
    measure_latency(model, model, (torch.zeros(1),), warm_up=0, runs=1)
    assert set(model.modes) == {(False, False)}
    assert model.training


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
