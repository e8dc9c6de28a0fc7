"""Filter pruners' arguments: what a rate counts, rounding, one ranking over all layers, what NNCF spares."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.measure import macs, measure, parameters
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.compression.pruning.pruner import FilterPruner
from autocompress.compression.pruning.pruning_plan import (
    CouplingWidth,
    global_widths,
    kept_filters,
    local_widths,
    solve_rate,
)
from autocompress.errors import CompressionError, ConfigError
from autocompress.layer_selector import LayerRule
from autocompress.registry import algorithms, register_algorithm
from autocompress.testing.zoo import ZOO

from ..nets import IMAGE, Grouped, Plain, Residual

RATES = st.floats(0, 0.999)


@given(st.integers(1, 600), RATES, st.sampled_from([1, 2, 4]), st.sampled_from([1, 4, 8, 16]))
def test_what_stays_is_a_multiple_wherever_the_layer_is_wide_enough(parts, rate, groups, round_to):
    width = parts * groups
    kept = kept_filters(width, rate, groups, round_to)
    step = math.lcm(groups, round_to)
    assert groups <= kept <= width
    assert kept % step == 0 or kept == width
    if step <= width:
        assert abs(kept - width * (1 - rate)) <= step


@given(st.lists(st.tuples(st.integers(2, 64), st.integers(1, 3)), min_size=1, max_size=6), RATES, RATES, st.data())
def test_a_global_ranking_removes_the_share_and_more_at_a_higher_rate(layers, first, second, data):
    scores = [sorted(data.draw(st.lists(st.floats(0.1, 9), min_size=w, max_size=w))) for w, _ in layers]
    gone = []
    for rate in sorted((first, second)):
        slots = [CouplingWidth(width, width, 1, members, rate) for width, members in layers]
        kept = global_widths(slots, scores)
        assert all(1 <= count <= slot.width for count, slot in zip(kept, slots, strict=True))
        gone.append(sum((slot.width - count) * slot.members for count, slot in zip(kept, slots, strict=True)))
        possible = sum((slot.width - 1) * slot.members for slot in slots)
        wanted = rate * sum(slot.width * slot.members for slot in slots)
        assert abs(gone[-1] - min(wanted, possible)) <= max(slot.members for slot in slots)
    assert gone[0] <= gone[1]


def test_a_global_ranking_takes_the_lowest_scores_wherever_they_are():
    slots = [CouplingWidth(4, 4, 1, 1, 0.5), CouplingWidth(4, 4, 1, 1, 0.5)]
    assert global_widths(slots, [[0.1, 0.2, 0.3, 5.0], [1.0, 2.0, 3.0, 4.0]]) == [1, 3]
    assert local_widths(slots) == [2, 2]


def test_what_is_gone_already_counts():
    slots = [CouplingWidth(2, 4, 1, 1, 0.5), CouplingWidth(4, 4, 1, 1, 0.5)]
    assert global_widths(slots, [[0.1, 0.2], [1.0, 2.0, 3.0, 4.0]]) == [1, 3]


def test_staggered_layers_change_one_by_one():
    slots = [CouplingWidth(64, 64, 1, 1, rate=0.5) for _ in range(4)]
    total = {
        rate: sum(local_widths([CouplingWidth(64, 64, 1, 1, rate)] * 4, staggered=True)) for rate in (0.5, 0.504, 0.508)
    }
    assert sum(local_widths(slots)) == 128
    assert total[0.5] > total[0.504] > total[0.508]


@pytest.mark.parametrize("target", [0.01, 0.2, 0.5, 0.77, 0.95])
def test_a_share_is_met(target):
    asked = []

    def share(rate):
        asked.append(rate)
        return 1 - (1 - rate) ** 2.3

    assert abs(share(solve_rate(target, share)) - target) <= 0.0025
    assert len(asked) <= 10


def test_what_cannot_be_reached_ends_at_the_most():
    assert solve_rate(0.9, lambda rate: 0.4 * rate) == pytest.approx(1, abs=1e-3)


PRUNERS = ["l1", "l2", "fpgm", "filter_pruning"]


class Strided(nn.Module):
    """A stem, a block that downsamples, and one that does not."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        for layer in (self.stem, self.down, self.deep, self.last):
            x = torch.relu(layer(x))
        return self.head(x.mean((2, 3)))


def prune(model, rate, algorithm="l2", inputs=IMAGE, targets=None, uncompressed=None, original=None, **arguments):
    rules = targets or (LayerRule(("default",), rate=rate),)
    request = CompressionRequest(algorithm, rules, inputs, arguments=arguments, uncompressed=uncompressed)
    return FilterCompressor().compress(model, request)


def widths(model):
    return {name: shape.width for name, shape in layer_shapes(model).items()}


@pytest.mark.parametrize("of", ["parameters", "macs"])
@pytest.mark.parametrize("rate", [0.2, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg_bn", "cnn_no_norm"])
def test_a_share_of_parameters_or_macs_is_met_within_a_hundredth(name, rate, of):
    module = ZOO[name]
    model, inputs = module.model(), (module.example_inputs(),)
    size = measure(model, inputs)
    compression = prune(model, rate, inputs=inputs, rate_of=of)
    left = parameters(model) if of == "parameters" else macs(model, inputs)
    removed = 1 - left / getattr(size, of)
    assert removed == pytest.approx(rate, abs=0.01)
    assert compression.achieved_rate(model) == pytest.approx(removed)


def test_a_share_counts_from_the_uncompressed_model():
    model = Residual()
    size = measure(model, IMAGE)
    prune(model, 0.3, rate_of="parameters", uncompressed=size)
    compression = prune(model, 0.6, rate_of="parameters", uncompressed=size)
    assert 1 - parameters(model) / size.parameters == pytest.approx(0.6, abs=0.01)
    assert compression.achieved_rate(model) == pytest.approx(0.6, abs=0.01)


def test_a_share_that_cannot_be_reached_is_refused():
    rules = (LayerRule(("Conv2d",), ("conv1",), rate=0.9),)
    with pytest.raises(CompressionError, match=r"a share of parameters must be reachable; 0\.9 is not: .* are removed"):
        prune(Plain(), 0.9, rate_of="parameters", targets=rules)


def test_a_share_needs_one_rate():
    rules = (LayerRule(("Conv2d",), rate=0.5), LayerRule(("Linear",), rate=0.3))
    for arguments, message in (
        ({"rate_of": "macs"}, "rate_of 'macs'"),
        ({"allocation": "global"}, "one global ranking"),
    ):
        with pytest.raises(ConfigError, match=f"{message} must have one rate for all layers; the rules have 0.3, 0.5"):
            prune(Plain(), 0.5, targets=rules, **arguments)


@pytest.mark.parametrize("algorithm", PRUNERS)
@pytest.mark.parametrize("rate", [0.1, 0.4, 0.5, 0.7])
def test_rounding_leaves_multiples(algorithm, rate):
    model = ZOO["resnet18"].model()
    before, inputs = widths(model), (ZOO["resnet18"].example_inputs(),)
    prune(model, rate, algorithm, inputs, round_to=8)
    after = widths(model)
    assert {name: width % 8 for name, width in after.items() if name != "fc"} == {n: 0 for n in after if n != "fc"}
    exact = {name: width * (1 - rate) for name, width in before.items() if after[name] != width}
    assert all(abs(after[name] - width) <= 4 + 1e-9 for name, width in exact.items()), (exact, after)


def test_rounding_and_groups_go_together():
    model = Grouped()
    prune(model, 0.4, round_to=4)
    grouped = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert grouped
    assert all(layer.out_channels % layer.groups == layer.out_channels % 4 == 0 for layer in grouped), model


def test_a_share_is_met_with_rounding_as_near_as_steps_allow():
    model = ZOO["resnet18"].model()
    inputs = (ZOO["resnet18"].example_inputs(),)
    size = measure(model, inputs)
    prune(model, 0.5, inputs=inputs, rate_of="macs", round_to=8)
    assert all(width % 8 == 0 for name, width in widths(model).items() if name != "fc")
    assert 1 - macs(model, inputs) / size.macs == pytest.approx(0.5, abs=0.02)


def scaled(model, **factors):
    """Every filter's size spread about its layer's own."""
    with torch.no_grad():
        for name, factor in factors.items():
            weight = model.get_submodule(name).weight
            spread = torch.linspace(0.5, 1.5, weight.shape[0]).view(-1, *[1] * (weight.dim() - 1))
            weight.copy_(factor * spread * torch.ones_like(weight))
    return model


@pytest.mark.parametrize("algorithm", ["l1", "l2"])
def test_one_ranking_takes_from_the_layers_with_the_weakest_filters(algorithm):
    model = Plain(norm=False)
    with torch.no_grad():
        model.conv2.weight[:20] *= 1e-3
        model.conv2.bias[:20] *= 1e-3
    by_layer, by_all = copy.deepcopy(model), copy.deepcopy(model)
    prune(by_layer, 0.3, algorithm)
    prune(by_all, 0.3, algorithm, allocation="global")
    assert widths(by_all)["conv2"] < widths(by_layer)["conv2"]
    assert widths(by_all)["conv1"] > widths(by_layer)["conv1"]
    left = [sum(width for name, width in widths(each).items() if name != "head") for each in (by_layer, by_all)]
    assert left[0] == pytest.approx(left[1], abs=1)


@pytest.mark.parametrize("algorithm", ["l2", "filter_pruning"])
def test_one_ranking_keeps_a_filter_in_every_layer(algorithm):
    model = Strided()
    with torch.no_grad():
        model.deep.weight.zero_()
    arguments = (
        {"all_weights": True, "prune_first_conv": True} if algorithm == "filter_pruning" else {"allocation": "global"}
    )
    rates = []
    for rate in (0.3, 0.6, 0.9, 0.99):
        each = copy.deepcopy(model)
        rates.append(prune(each, rate, algorithm, **arguments).achieved_rate(each))
        assert min(widths(each).values()) >= 1
        assert each(IMAGE[0]).shape == (1, 5)
    assert all(low <= high for low, high in itertools.pairwise(rates)), rates


def test_filter_pruning_spares_the_first_convolution_and_those_that_downsample():
    def left(**arguments):
        model = Strided()
        prune(model, 0.5, "filter_pruning", **arguments)
        return {name: width for name, width in widths(model).items() if width == 8}

    assert set(left()) == {"deep", "last"}
    assert set(left(prune_first_conv=True)) == {"stem", "deep", "last"}
    assert set(left(prune_downsample_convs=True)) == {"down", "deep", "last"}


SCORES = {
    "L1": lambda rows: rows.abs().sum(1),
    "L2": lambda rows: rows.norm(dim=1),
    "geometric_median": lambda rows: torch.cdist(rows, rows).sum(1),
}


@pytest.mark.parametrize("importance", SCORES)
@pytest.mark.parametrize("norm", [False, True])
def test_filter_pruning_ranks_filters_as_the_norm_behind_them_scales_them(importance, norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *([nn.BatchNorm2d(8)] if norm else []), nn.Flatten(), nn.LazyLinear(5))
    model(*IMAGE)
    weight = model[0].weight.detach().clone()
    scale = torch.ones(8)
    if norm:
        with torch.no_grad():
            model[1].weight.copy_(torch.linspace(0.1, 3, 8).flip(0))
            model[1].running_var.copy_(torch.linspace(0.5, 2, 8))
        scale = model[1].weight.detach() / (model[1].running_var + model[1].eps).sqrt()
    best = SCORES[importance](weight.flatten(1) * scale[:, None]).argsort(descending=True)[:4].sort().values
    prune(model.eval(), 0.5, "filter_pruning", filter_importance=importance, prune_first_conv=True)
    assert torch.equal(model[0].weight, weight[best])


def test_filter_pruning_says_when_all_is_spared():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    with pytest.raises(CompressionError, match="nothing can be removed"):
        prune(model, 0.5, "filter_pruning")


class Equal(FilterPruner):
    """Every filter costs the same loss."""

    name = "equal_loss"
    estimates_loss = True

    def importance(self, context):
        return lambda coupling: torch.ones(coupling.width)


def test_of_equal_losses_the_one_is_taken_that_frees_the_most(monkeypatch):
    monkeypatch.setattr("autocompress.registry._known", dict(algorithms()))
    register_algorithm(Equal())
    large, small = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)], [nn.Conv2d(16, 32, 3, padding=1)]
    last = [nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model, inputs = nn.Sequential(*large, *small, *last, nn.Linear(32, 5)), (torch.randn(1, 3, 16, 16),)
    first, second = "0", "3"
    narrower = {}
    for rate_of in ("macs", "parameters"):
        each = copy.deepcopy(model)
        prune(each, 0.2, "equal_loss", inputs, allocation="global", rate_of=rate_of)
        narrower[rate_of] = [name for name, width in widths(each).items() if width < widths(model)[name]]
    # Multiply-accumulates of a filter and of what reads it: 6912 + 4608, 2304 + 4608, 4608 + 5; weights: 315, 432, 293.
    assert narrower == {"macs": [first], "parameters": [second]}
