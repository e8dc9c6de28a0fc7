"""Rounding to few bits: the nearest of few levels, and gradients that pass straight through."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autocompress.compression.quantization import rounding

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
