from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shape, layer_shapes
from autocompress.compression.pruning.filters import FilterCompression, FilterCompressor
from autocompress.compression.pruning.pruning_plan import kept_filters
from autocompress.errors import CompressionError, ConfigError
from autocompress.layer_selector import LayerRule

from ..nets import (
    IMAGE,
    NETS,
    Convolutions,
    Depthwise,
    Plain,
    Recurrent,
    Residual,
    TwoHeads,
    Words,
    build,
    outputs,
    train,
)

ALGORITHMS = ["l1", "l2", "fpgm"]
EVERYTHING = (LayerRule(("default",), rate=0.5),)
CONVOLUTIONS = ("Conv2d",)


def prune(
    model: nn.Module, rate: float, algorithm: str = "l1", op_types: tuple[str, ...] = ("default",), **options: object
) -> FilterCompression:
    inputs = options.pop("example_inputs", IMAGE)
    targets = options.pop("targets", (LayerRule(op_types, rate=rate),))
    return FilterCompressor().compress(model, CompressionRequest(algorithm, targets, inputs, **options))


def widths(model: nn.Module) -> dict[str, int]:
    return {name: shape.width for name, shape in layer_shapes(model).items()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.77, 0.95])
def test_every_layer_keeps_exactly_its_share(algorithm: str, net: str, rate: float) -> None:
    model = build(net)
    original, groups = widths(model), {name: shape.groups for name, shape in layer_shapes(model).items()}
    prune(model, rate, algorithm)
    for name, width in widths(model).items():
        if name in ("head", "first"):  # the output layer; a depthwise layer on the model's input
            assert width == original[name]
        elif net == "grouped" and name in ("conv1", "grouped"):
            assert width == kept_filters(original[name], rate, 4)
            assert width % groups[name] == 0
        else:
            assert width == max(1, math.floor(original[name] * (1 - rate) + 0.5))
    assert outputs(model).shape == (1, 5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("net", NETS)
def test_the_achieved_rate_never_falls_as_the_requested_rises(algorithm: str, net: str) -> None:
    achieved = [prune(build(net), rate / 100, algorithm) for rate in (0, *range(10, 100, 6))]
    targets = [compression.achieved_rate(compression.model) for compression in achieved]
    whole = [compression.achieved_rate(compression.model, whole_model=True) for compression in achieved]
    assert targets == sorted(targets)
    assert whole == sorted(whole)
    assert targets[0] == 0
    assert 0.6 < targets[-1] < 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("net", NETS)
def test_a_warm_start_reaches_the_widths_of_direct_pruning(algorithm: str, net: str) -> None:
    original = layer_shapes(build(net))
    warm = build(net)
    for rate in (0.2, 0.45, 0.7):
        compression = prune(warm, rate, algorithm, original=original)
        train(warm, steps=1)
        direct = prune(build(net), rate, algorithm)
        assert widths(warm) == widths(direct.model)
        assert compression.achieved_rate(warm) == direct.achieved_rate(direct.model)


def test_filters_are_never_added() -> None:
    model = build("plain")
    original = layer_shapes(model)
    prune(model, 0.6)
    before = widths(model)
    compression = prune(model, 0.3, original=original)
    assert widths(model) == before
    assert compression.achieved_rate(model) == pytest.approx(0.6, abs=0.05)


@given(st.integers(1, 300), st.floats(0, 0.999), st.floats(0, 0.999), st.integers(1, 8))
def test_kept_filters_fall_with_the_rate_and_are_never_none(width: int, one: float, other: float, groups: int) -> None:
    low, high = sorted((one, other))
    width *= groups
    assert width == kept_filters(width, 0.0, groups)
    assert width >= kept_filters(width, low, groups) >= kept_filters(width, high, groups) >= groups


@pytest.mark.parametrize(("algorithm", "power"), [("l1", 1), ("l2", 2)])
def test_the_filters_of_smallest_norm_go(algorithm: str, power: int) -> None:
    model = build("no_norm")
    with torch.no_grad():
        model.conv1.weight *= torch.linspace(1, 4, 16)[torch.randperm(16)].view(-1, 1, 1, 1) ** 2
    weight = model.conv1.weight.detach().clone()
    prune(model, 0.5, algorithm, targets=(LayerRule(op_names=("conv1",), rate=0.5),))
    norms = weight.abs().pow(power).flatten(1).sum(1)
    kept = sorted(norms.topk(8).indices.tolist())
    assert torch.equal(model.conv1.weight, weight[kept])


def test_fpgm_removes_the_filters_that_others_can_replace() -> None:
    """Filters near the geometric median go, however big they are."""
    model = build("no_norm")
    with torch.no_grad():
        model.conv1.weight[:12] = 10 + 0.01 * torch.randn_like(model.conv1.weight[:12])
        model.conv1.weight[12:] = 3 * torch.randn_like(model.conv1.weight[12:])
    unlike = model.conv1.weight[12:].detach().clone()
    prune(model, 0.5, "fpgm", targets=(LayerRule(op_names=("conv1",), rate=0.5),))
    assert torch.equal(model.conv1.weight[-4:], unlike)


def test_removing_dead_filters_changes_no_output() -> None:
    model = build("plain")
    with torch.no_grad():
        for filters in (model.conv1.weight, model.conv1.bias, model.bn1.weight, model.bn1.bias):
            filters[::2] = 0
    before = outputs(model)
    prune(model, 0.5, targets=(LayerRule(op_names=("conv1",), rate=0.5),))
    assert model.conv1.out_channels == 8
    torch.testing.assert_close(outputs(model), before)


def test_only_selected_layers_lose_filters() -> None:
    model = build("plain")
    rules = (LayerRule(CONVOLUTIONS, rate=0.5), LayerRule(op_names=("conv1",), exclude=True))
    compression = prune(model, 0.5, targets=rules)
    assert widths(model) == {"conv1": 16, "conv2": 12, "hidden": 20, "head": 5}
    assert compression.changed == ("conv2",)
    assert compression.achieved_rate(model) == 0.5
    assert compression.achieved_rate(model, whole_model=True) == 12 / 60


def test_a_later_rule_overrides() -> None:
    model = build("plain")
    rules = (LayerRule(("default",), rate=0.5), LayerRule(op_names=("conv2",), rate=0.25))
    prune(model, 0.5, targets=rules)
    assert widths(model) == {"conv1": 8, "conv2": 18, "hidden": 10, "head": 5}


def test_coupled_layers_take_their_smallest_rate() -> None:
    model = build("residual")
    rules = (LayerRule(("default",), rate=0.75), LayerRule(op_names=("a2",), rate=0.25))
    prune(model, 0.5, targets=rules)
    assert widths(model) == {"stem": 12, "a1": 3, "a2": 12, "b1": 2, "b2": 12, "head": 5}


def test_layers_tied_to_an_unselected_one_stay() -> None:
    model = build("residual")
    prune(model, 0.5, targets=(LayerRule(("default",), rate=0.5), LayerRule(op_names=("b2",), exclude=True)))
    assert widths(model) == {"stem": 16, "a1": 6, "a2": 16, "b1": 4, "b2": 16, "head": 5}


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_every_dimension_before_a_flattening(dimensions: int) -> None:
    torch.manual_seed(0)
    model = Convolutions(dimensions)
    inputs = (torch.randn(model.shape),)
    with torch.no_grad():  # dead filters: the right columns of the linear layer must go with them
        model.up.weight[:, 3:] = 0
        model.up.bias[3:] = 0
    before = outputs(model, inputs)
    prune(model, 0.5, targets=(LayerRule(op_names=("up",), rate=0.5),), example_inputs=inputs)
    torch.testing.assert_close(outputs(model, inputs), before)
    prune(model, 0.5, example_inputs=inputs)
    assert widths(model) == {"conv1": 4, "up": 2, "hidden": 6, "head": 5}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_resnet18(algorithm: str) -> None:
    import torchvision

    model = torchvision.models.resnet18(num_classes=10)
    inputs = (torch.randn(1, 3, 32, 32),)
    original = layer_shapes(model)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for rate in (0.3, 0.6):
        compression = prune(model, rate, algorithm, example_inputs=inputs, original=original)
        assert compression.achieved_rate(model) == pytest.approx(rate, abs=0.005)
    assert outputs(model, inputs).shape == (1, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) < 0.2 * parameters
    assert model.layer2[0].conv2.out_channels == model.layer2[0].downsample[0].out_channels == 51


@pytest.mark.parametrize("features", [False, True])
def test_all_output_layers_of_a_model_are_protected(features: bool) -> None:
    model = TwoHeads(features)
    shapes = {name: tensor.shape for name, tensor in outputs(model).items()}
    compression = prune(model, 0.5)
    assert {name: tensor.shape for name, tensor in outputs(model).items()} == shapes
    assert compression.layers == (("stem",) if features else ("stem", "conv"))
    assert widths(model) == {"stem": 8, "conv": 16 if features else 8, "boxes": 4, "classes": 7}


def test_modes_gradients_and_the_head_are_left_as_they_were() -> None:
    model = build("plain")
    head = copy.deepcopy(model.head)
    model.train()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    with torch.no_grad():
        prune(model, 0.5, targets=(LayerRule(CONVOLUTIONS, rate=0.5),))
    assert model.training
    assert model.conv2.training
    assert not model.bn1.training
    assert not model.conv1.weight.requires_grad
    assert model.conv2.weight.requires_grad
    assert torch.equal(model.head.weight, head.weight)
    assert torch.equal(model.head.bias, head.bias)


def test_a_frozen_model_can_be_pruned() -> None:
    model = build("residual").requires_grad_(False)
    assert prune(model, 0.5).achieved_rate(model) == 0.5
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_shared_weights_stay_shared() -> None:
    torch.manual_seed(0)
    model, inputs = Words(), (torch.tensor([[1, 2, 3]]),)
    prune(model, 0.5, example_inputs=inputs)
    assert model.hidden.out_features == 8
    assert model.back.out_features == 8  # it feeds the shared weight
    assert model.head.weight is model.embedding.weight
    assert outputs(model, inputs).shape == (1, 3, 11)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_lose_hidden_units(kind: type[nn.RNNBase]) -> None:
    model, inputs = Recurrent(kind, 2), (torch.randn(1, 7, 8),)
    assert prune(model, 0.5, example_inputs=inputs).achieved_rate(model) == 0.5
    assert (model.cells.input_size, model.cells.hidden_size) == (16, 8)
    assert outputs(model, inputs).shape == (1, 5)


def test_attention_loses_whole_heads() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 5))
    inputs = (torch.randn(1, 7, 8),)
    prune(model, 0.5, example_inputs=inputs)
    assert (model[1].self_attn.num_heads, model[1].self_attn.head_dim, model[1].linear1.out_features) == (2, 8, 32)
    assert outputs(model, inputs).shape == (1, 7, 5)


def test_pruned_models_train() -> None:
    model = build("depthwise")
    prune(model, 0.5)
    before = model.depthwise.weight.detach().clone()
    train(model)
    assert not torch.equal(model.depthwise.weight, before)


def test_what_nncfs_defaults_spare_is_named_with_the_option() -> None:
    class Strided(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.a1 = nn.Conv2d(16, 12, 3, padding=1, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.a1(torch.relu(self.stem(x))))
            return self.head(torch.relu(self.b2(torch.relu(self.b1(self.a2(x))))).mean((2, 3)))

    compression = prune(Strided(), 0.5, "filter_pruning")
    assert {name: re.findall(r"option (\w+) = true", why) for name, why in compression.left_alone.items()} == {
        "stem": ["prune_first_conv"],
        "a1": ["prune_downsample_convs"],
    }
    assert "stem: filter_pruning spares first convolutions by default, as NNCF does" in compression.left_alone["stem"]
    both = {"prune_first_conv": True, "prune_downsample_convs": True}
    assert prune(Strided(), 0.5, "filter_pruning", arguments=both).left_alone == {}


class TestErrors:
    def test_only_the_output_layer_is_selected(self) -> None:
        with pytest.raises(
            CompressionError, match=r"at rate 0\.5 .* every selected layer makes the model's output \(head\)"
        ):
            prune(build("plain"), 0.5, targets=(LayerRule(op_names=("head",), rate=0.5),))

    def test_tied_to_a_layer_that_is_not_selected(self) -> None:
        with pytest.raises(CompressionError, match=r"every selected layer \(stem\) shares filters with"):
            prune(build("residual"), 0.5, targets=(LayerRule(op_names=("stem",), rate=0.5),))

    def test_too_narrow(self) -> None:
        with pytest.raises(CompressionError, match=r"too narrow for that rate \(filters: conv1: 16\)"):
            prune(build("plain"), 0.01, targets=(LayerRule(op_names=("conv1",), rate=0.01),))

    def test_a_depthwise_layer_on_the_input(self) -> None:
        with pytest.raises(CompressionError, match=r"\(first\) shares filters with the model's output, its input"):
            prune(Depthwise(), 0.5, targets=(LayerRule(op_names=("first",), rate=0.5),))

    def test_a_forward_pass_that_relies_on_every_width(self) -> None:
        class Fixed(Plain):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = torch.relu(self.conv2(self.conv1(x).view(1, 16, 8, 8)).view(1, 24, 8, 8))
                return self.head(self.hidden(torch.max_pool2d(x, 2).flatten(1)).view(1, 20))

        with pytest.raises(CompressionError, match="nothing can be removed: ") as caught:
            prune(Fixed(), 0.5)
        assert "hidden: without some of its filters the model fails (RuntimeError: shape '[1, 20]'" in str(caught.value)
        assert all(f"{layer}: " in str(caught.value) for layer in ("conv1", "conv2", "hidden"))

    def test_a_model_that_cannot_be_traced(self) -> None:
        model = build("plain")
        model.forward = lambda x: x.detach()
        with pytest.raises(CompressionError, match="none of its outputs depends on a parameter"):
            prune(model, 0.5)

    def test_an_unknown_algorithm(self) -> None:
        with pytest.raises(ConfigError, match=r"unknown algorithm 'l3'; did you mean 'l2' or 'l1'"):
            prune(build("plain"), 0.5, "l3")

    def test_an_unknown_name(self) -> None:
        with pytest.raises(ConfigError, match=r"op_names: unknown layer 'conv9'; did you mean 'conv"):
            prune(build("plain"), 0.5, targets=(LayerRule(op_names=("conv9",), rate=0.5),))


def test_layer_shape_tells_depthwise_layers() -> None:
    assert layer_shape(Depthwise().depthwise).depthwise
    assert not layer_shape(nn.Conv2d(3, 1, 3)).depthwise
    assert not layer_shape(Residual().head).depthwise
