from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.pruning.sparsity import LevelCompression, WeightCompressor, smallest
from autocompress.errors import CompressionError, ConfigError
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, Words, build, outputs, train
from ..structures import COMPUTED


def zero(model: nn.Module, rate: float, *targets: LayerRule) -> LevelCompression:
    rules = targets or (LayerRule(("default",), rate=rate),)
    return WeightCompressor().compress(model, CompressionRequest("level", rules, IMAGE))


def zeros(model: nn.Module) -> dict[str, int]:
    return {
        name: int((module.weight == 0).sum())
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding)
    }


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.833, 0.99])
def test_every_layer_has_exactly_its_share_of_zeros(net: str, rate: float) -> None:
    model = build(net)
    counts = {name: model.get_submodule(name).weight.numel() for name in zeros(model)}
    zero(model, rate)
    assert zeros(model) == {name: math.floor(count * rate + 0.5) for name, count in counts.items()}


def test_equal_weights_are_told_apart_by_their_place() -> None:
    weight = torch.tensor([[1.0, -1.0, 1.0], [0.5, 1.0, 2.0]])
    assert smallest(weight, 0.5).tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_number_types(dtype: torch.dtype) -> None:
    pruned = smallest(torch.randn(7, 13, dtype=dtype), 0.3)
    assert int(pruned.sum()) == math.floor(91 * 0.3 + 0.5)


def test_the_smallest_weights_go() -> None:
    model = build("plain")
    weight = model.conv2.weight.detach().clone()
    zero(model, 0.7)
    left = model.conv2.weight != 0
    assert weight[left].abs().min() >= weight[~left].abs().max()
    assert torch.equal(model.conv2.weight[left], weight[left])


@pytest.mark.parametrize("net", NETS)
def test_the_achieved_rate_never_falls_as_the_requested_rises(net: str) -> None:
    achieved = [zero(build(net), rate / 20) for rate in range(20)]
    rates = [compression.achieved_rate(compression.model) for compression in achieved]
    assert rates == sorted(rates)
    assert rates == pytest.approx([rate / 20 for rate in range(20)], abs=0.01)


def test_the_rate_over_the_whole_model() -> None:
    model = build("no_norm")
    compression = zero(model, 0.5, LayerRule(op_names=("conv2",), rate=0.5))
    total = sum(module.weight.numel() for module in (model.conv1, model.conv2, model.hidden, model.head))
    assert compression.achieved_rate(model) == 0.5
    assert compression.achieved_rate(model, whole_model=True) == 0.5 * model.conv2.weight.numel() / total


def test_the_mask_holds_through_training_and_is_folded() -> None:
    model = build("plain")
    keys = list(model.state_dict())
    compression = zero(model, 0.8)
    masked = zeros(model)
    held = model.conv1.weight == 0
    train(model)
    assert zeros(model) == masked
    assert torch.equal(model.conv1.weight == 0, held)
    before = outputs(model)
    copied = compression.finish(copy.deepcopy(model))
    assert list(copied.state_dict()) == keys
    assert zeros(copied) == masked
    assert torch.equal(outputs(copied), before)
    assert not any((parameter == 0).logical_and(parameter.signbit()).any() for parameter in copied.parameters())
    assert compression.achieved_rate(copied) == compression.achieved_rate(model)
    train(model)  # finishing the copy left the mask of the model in place
    assert zeros(model) == masked
    assert compression.finish(model) is model
    assert list(model.state_dict()) == keys


def test_finishing_keeps_the_parameter_objects() -> None:
    model = build("plain")
    compression = zero(model, 0.5)
    parameter = model.conv1.parametrizations.weight.original
    compression.finish(model)
    assert model.conv1.weight is parameter


def test_a_warm_start_keeps_the_zeros_of_the_lower_rate() -> None:
    model = build("plain")
    zero(model, 0.4).finish(model)
    lower = model.conv2.weight == 0
    train(model, steps=0)
    zero(model, 0.6)
    assert bool((model.conv2.weight[lower] == 0).all())
    assert zeros(model)["conv2"] == math.floor(model.conv2.weight.numel() * 0.6 + 0.5)


def test_shared_weights_are_masked_once_and_stay_shared() -> None:
    torch.manual_seed(0)
    model = Words()
    compression = zero(model, 0.5)
    assert zeros(model)["embedding"] == zeros(model)["head"] == 44
    compression.finish(model)
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("how", COMPUTED)
def test_a_weight_that_is_computed_is_left_alone_and_counted(how: str) -> None:
    model, (make, words) = build("plain"), COMPUTED[how]
    make(model.eval().conv2)  # in training, spectral_norm estimates anew
    before = model.conv2.weight.detach().clone()
    compression = zero(model, 0.5)
    assert compression.left_alone == {
        "conv2": f"conv2: its weight is computed from other parameters, by {words}; it stays as it is"
    }
    assert torch.equal(model.conv2.weight, before)
    plain = [model.conv1.weight, model.hidden.weight, model.head.weight]
    total = sum(weight.numel() for weight in (*plain, before))
    assert compression.achieved_rate(model) == sum(int((weight == 0).sum()) for weight in plain) / total
    x = outputs(model)
    compression.finish(model)
    assert torch.equal(outputs(model), x)
    assert compression.achieved_rate(model) == pytest.approx(0.5 * (total - before.numel()) / total, abs=1e-3)


class TestErrors:
    def test_a_shared_weight_with_different_rates(self) -> None:
        with pytest.raises(CompressionError, match=r"one setting in all its places; embedding\.weight, head\.weight"):
            zero(Words(), 0.5, LayerRule(op_names=("head",), rate=0.5))

    def test_no_weight_is_plain(self) -> None:
        model = build("plain")
        torch.nn.utils.parametrizations.weight_norm(model.conv1)
        with pytest.raises(CompressionError, match=r"one weight must be plain; conv1: .*; it stays as it is \("):
            zero(model, 0.5, LayerRule(op_names=("conv1",), rate=0.5))

    def test_nothing_to_zero(self) -> None:
        with pytest.raises(CompressionError, match=r"at rate 0\.001 .*too few weights \(weights: head: 100\)"):
            zero(build("plain"), 0.001, LayerRule(op_names=("head",), rate=0.001))

    def test_a_rate_outside_its_range(self) -> None:
        with pytest.raises(ConfigError, match=r"must be in \[0, 1\); the rule for op_types \['default'\] has 1.0"):
            zero(build("plain"), 1.0)
