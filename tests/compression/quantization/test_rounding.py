"""Rounding to few bits: the nearest of few levels, and gradients that pass straight through."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from autocompress.compression.quantization import rounding
from autocompress.compression.quantization.rounding import (
    ActivationQuantizer,
    activation_quantizers,
    attach,
    attach_described,
    detach,
    hook,
)
from autocompress.errors import StoreError

ROUNDINGS = {
    "symmetric": rounding.symmetric,
    "affine": rounding.affine,
    "dorefa": rounding.dorefa,
    "binary": rounding.binary,
}


@pytest.mark.parametrize("name", ROUNDINGS)
@given(bits=st.integers(1, 8), seed=st.integers(0, 100), scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_roundings_have_so_many_levels_inside_the_range(name, bits, seed, scale):
    if name == "symmetric" and bits == 1:
        return  # no level but zero
    weight = scale * torch.randn(400, generator=torch.Generator().manual_seed(seed))
    rounded = ROUNDINGS[name](weight, 1 if name == "binary" else bits)
    assert rounded.unique().numel() <= 2**bits
    shift = float(weight.max() - weight.min()) / (2**bits - 1) / 2 if name == "affine" else 0  # for zero's sake
    assert float(rounded.abs().max()) <= float(weight.abs().max()) * (1 + 1e-5) + shift * (1 + 1e-5)
    assert torch.isfinite(rounded).all()


@pytest.mark.parametrize("name", ["symmetric", "affine"])
@given(bits=st.integers(2, 8), seed=st.integers(0, 100))
def test_even_levels_are_the_nearest_ones(name, bits, seed):
    weight = torch.randn(300, generator=torch.Generator().manual_seed(seed)) + 0.3
    rounded = ROUNDINGS[name](weight, bits)
    span = 2 * weight.abs().max() if name == "symmetric" else weight.max().clamp_min(0) - weight.min().clamp_max(0)
    step = float(span) / (2**bits - (2 if name == "symmetric" else 1))
    assert float((rounded - weight).abs().max()) <= step / 2 * (1 + 1e-4) + (step / 2 if name == "affine" else 0)


def test_zero_stays_zero_and_constants_stay_finite():
    weight = torch.tensor([0.0, 0.5, -1.0])
    assert rounding.symmetric(weight, 4)[0] == rounding.affine(weight, 4)[0] == 0
    for rounding_of in ROUNDINGS.values():
        assert torch.isfinite(rounding_of(torch.zeros(5), 2)).all()


def test_dorefa_and_binary_by_hand():
    weight = torch.tensor([-2.0, -0.1, 0.3, 2.0])
    assert rounding.binary(weight, 1).tolist() == pytest.approx([-1.1, -1.1, 1.1, 1.1])
    unit = torch.tanh(weight) / (2 * math.tanh(2.0)) + 0.5
    expected = 2.0 * (2 * (unit * 3).round() / 3 - 1)
    assert torch.allclose(rounding.dorefa(weight, 2), expected)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_gradients_pass_straight_through(name):
    weight = torch.randn(50, requires_grad=True)
    ROUNDINGS[name](weight, 3).sum().backward()
    assert torch.isfinite(weight.grad).all()
    assert bool((weight.grad != 0).all())
    if name != "dorefa":  # tanh has a slope of its own
        assert torch.equal(weight.grad, torch.ones(50))


def test_the_first_values_give_the_range_and_later_ones_move_it():
    quantizer = ActivationQuantizer(8).train()
    quantizer(torch.tensor([0.0, 1.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (0.0, 1.0)
    quantizer(torch.tensor([-1.0, 3.0]))
    assert (float(quantizer.low), float(quantizer.high)) == pytest.approx((-0.1, 1.2))
    quantizer.eval()(torch.tensor([-50.0, 50.0]))
    assert (float(quantizer.low), float(quantizer.high)) == pytest.approx((-0.1, 1.2)), "not in eval mode"


def test_values_are_rounded_to_the_nearest_level_inside_the_range():
    quantizer = ActivationQuantizer(2).train()
    quantizer(torch.tensor([0.0, 3.0]))
    given = torch.tensor([-1.0, 0.4, 0.6, 1.7, 9.0])
    assert quantizer.eval()(given).tolist() == pytest.approx([0.0, 0.0, 1.0, 2.0, 3.0])


def test_a_symmetric_range_has_zero_among_its_levels():
    quantizer = ActivationQuantizer(3, symmetric=True).train()
    quantizer(torch.tensor([-2.0, 3.0]))
    levels = quantizer.eval()(torch.linspace(-9, 9, 2001)).unique()
    assert levels.tolist() == pytest.approx([-4, -3, -2, -1, 0, 1, 2, 3])
    positive = ActivationQuantizer(3, symmetric=True).train()
    positive(torch.tensor([0.0, 7.0]))
    assert positive.eval()(torch.linspace(-9, 9, 2001)).unique().tolist() == pytest.approx(list(range(8)))


def test_it_starts_after_so_many_steps():
    quantizer, values = ActivationQuantizer(1, start_step=2).train(), torch.tensor([0.0, 0.3, 1.0])
    passed = [torch.equal(quantizer(values), values) for _ in range(4)]
    assert passed == [True, True, False, False]


def test_gradients_pass_inside_the_range_only():
    quantizer = ActivationQuantizer(4).train()
    quantizer(torch.tensor([0.0, 1.0]))
    values = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    quantizer.eval()(values).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("place", ["input", "output"])
def test_attached_and_taken_off_again(place):
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 3), torch.randn(4, 3)
    plain = layer(x)
    quantizer = attach(layer, place, 1)
    layer.train()(x)
    layer.eval()
    assert layer(x).unique().numel() <= (2 if place == "output" else 12)
    assert not torch.equal(layer(x), plain)
    assert activation_quantizers(layer) == {place: quantizer}
    detach(layer)
    assert torch.equal(layer(x), plain)
    assert activation_quantizers(layer) == {}


def test_made_again_from_its_description_it_computes_the_same():
    torch.manual_seed(0)
    layer, other, x = nn.Linear(3, 3), nn.Linear(3, 3), torch.randn(4, 3)
    quantizer = attach(layer, "output", 2, 3, symmetric=True)
    for _ in range(5):
        layer.train()(x)
    attach_described(other, {"output": quantizer.to_dict()})
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    with pytest.raises(StoreError, match="must have no output_quantizer of its own"):
        attach_described(other, {"output": quantizer.to_dict()})


def test_quantizers_whose_hooks_are_lost_are_called_again():
    layer, calls = nn.Linear(2, 2), []
    attach(layer, "input", 8).register_forward_hook(lambda *_: calls.append(1))
    layer._forward_pre_hooks.clear()
    layer(torch.ones(1, 2))
    assert not calls
    hook(layer)
    layer(torch.ones(1, 2))
    assert calls == [1]
