"""Tolerances of what was written: of each output by itself, and of small and rounded ones by the model's own noise."""

import pytest
import torch
from torch import nn

from autocompress.compression.model_state import copy_model, forward_outputs
from autocompress.compression.quantization.rounding import attach
from autocompress.compression.quantization.stored_linear import Int8DynamicLinear, convert
from autocompress.compression.verify import compare, differences
from autocompress.errors import CompressionError


class Two(nn.Module):
    """One output is large, one is small."""

    def forward(self, x):
        return {"large": 1000 * x, "small": x}


INPUTS = (torch.linspace(0.5, 1, 8).reshape(2, 4),)


def off(large=0.0, small=0.0):
    return lambda given: [1000 * given[0] + large, given[0] + small]


def test_the_output_nearest_to_its_tolerance_is_told():
    found = compare(Two(), [INPUTS, (torch.cat([INPUTS[0]] * 3),)], off(0.01, 5e-5), "here")
    assert found.batches == (2, 6)
    assert found.tolerance == pytest.approx(1e-4)
    assert found.max_difference == pytest.approx(5e-5, rel=1e-2)


@pytest.mark.parametrize("wrong", [off(large=0.2), off(small=2e-4), off(small=float("nan")), off(large=float("inf"))])
def test_a_small_output_does_not_hide_behind_a_large_one(wrong):
    with pytest.raises(CompressionError, match=r"within .*; an output differs by .* \(here\)"):
        compare(Two(), [INPUTS], wrong, "here")


def test_other_outputs_and_failures_are_told():
    with pytest.raises(CompressionError, match=r"must have the model's outputs \[\(2, 4\), \(2, 4\)\]; it has"):
        compare(Two(), [INPUTS], lambda given: [given[0]], "here")
    with pytest.raises(CompressionError, match=r"must run on a batch of 2 \(here\); ZeroDivisionError"):
        compare(Two(), [INPUTS], lambda _: 1 / 0, "here")


def test_equal_infinities_and_nans_are_equal():
    odd = torch.tensor([float("nan"), float("inf"), 1.0])
    assert differences([odd], [odd.clone()]) == [0.0]
    assert differences([odd], [torch.tensor([1.0, float("inf"), 1.0])]) == [float("inf")]


def test_a_model_that_rounds_activations_may_be_off_by_what_a_nudge_moves():
    layer = nn.Linear(4, 3)
    quantizer = attach(layer, "input", bits=2)
    quantizer.observe(INPUTS[0])
    model, step = layer.eval(), float(quantizer.high - quantizer.low) / 3
    edge = (torch.full((1, 4), float(quantizer.low) + step / 2),)  # between two levels
    moved = layer(torch.full((1, 4), float(quantizer.low) + step))
    still = layer(torch.full((1, 4), float(quantizer.low)))
    assert not torch.allclose(moved, still)
    for allowed in (moved, still):
        compare(model, [edge], lambda _, allowed=allowed: [allowed], "here")
    with pytest.raises(CompressionError):
        compare(model, [edge], lambda _: [still + 5 * (moved - still).abs().max()], "here")


class Words(nn.Module):
    """Takes whole numbers, which nothing can be added to, and rounds what it makes of them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 32)
        self.layers = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
        for layer in self.layers:
            convert(layer, Int8DynamicLinear, layer.weight, 0)

    def forward(self, x):
        return self.layers(self.words(x))


def test_what_rounds_words_has_the_tolerance_of_its_parameters():
    model, words = Words(), (torch.arange(48).reshape(4, 12),)
    near, far = copy_model(model), copy_model(model)
    with torch.no_grad():
        near.words.weight.mul_(1 + 1e-7)
        far.layers[3].weight_scale.mul_(1.05)
    found = compare(model, [words], lambda given: forward_outputs(near, given), "here")
    assert found.max_difference <= found.tolerance
    with pytest.raises(CompressionError, match="must compute what the model does"):
        compare(model, [words], lambda given: forward_outputs(far, given), "here")
