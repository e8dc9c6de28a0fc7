from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.compression.weight_storage import decode, encode
from autocompress.errors import StoreError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.uint8]


def size(state) -> int:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getbuffer().nbytes


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[first.element_size()]
    alike = (first.shape, first.dtype) == (second.shape, second.dtype)
    return alike and torch.equal(first.contiguous().view(kind), second.contiguous().view(kind))


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    st.sampled_from([1, 2, 3, 16, 255, 256, 257, 100_000]),
    st.integers(0, 2**32 - 1),
)
def test_every_tensor_comes_back_bit_for_bit(dtype, shape, sparsity, values, seed):
    generator = np.random.default_rng(seed)
    table = generator.integers(-100, 100, values) if not dtype.is_floating_point else generator.normal(size=values)
    array = generator.choice(table, shape) * (generator.random(shape) >= sparsity)
    state = {"weight": torch.tensor(array).to(dtype), "bias": torch.zeros(3)}
    encoded, description = encode(state)
    file = io.BytesIO()
    torch.save(encoded, file)
    loaded = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    decoded = decode(loaded, description)
    assert decoded.keys() == state.keys()
    assert all(same(decoded[name], tensor) for name, tensor in state.items())
    assert sum(part.nbytes for part in encoded.values()) <= sum(tensor.nbytes for tensor in state.values())


@pytest.mark.parametrize("special", [-0.0, math.nan, math.inf, 1e-45])
def test_special_values_are_kept(special):
    tensor = torch.zeros(400)
    tensor[7] = special
    encoded, description = encode({"x": tensor})
    assert description["x"]["sparse"]
    assert same(decode(encoded, description)["x"], tensor)


def test_dense_weights_stay_an_ordinary_state_dict():
    state = torch.nn.Linear(40, 40).state_dict()
    encoded, description = encode(state)
    assert encoded is state
    assert description == {}


@pytest.mark.parametrize(
    ("weight", "bits"),
    [
        (torch.randn(64, 64).sign(), 1),
        (torch.randn(64, 64).mul(2).round().clamp(-7, 7), 4),
        (torch.randint(-127, 128, (256, 256)).float() * 0.01, 8),
    ],
)
def test_few_values_take_few_bits(weight, bits):
    encoded, _ = encode({"weight": weight})
    stored = sum(part.nbytes for part in encoded.values())
    assert stored <= weight.numel() * bits / 8 + 4 * 2**bits, stored


def test_zeros_take_a_bit():
    weight = torch.randn(200, 200)
    weight[torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) < 0.9] = 0
    left = int(torch.count_nonzero(weight))
    encoded, description = encode({"weight": weight})
    assert sum(part.nbytes for part in encoded.values()) == left * 4 + 200 * 200 / 8
    assert description["weight"]["count"] == left


def test_both_together_are_smallest():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(1, 200, (300, 300), generator=generator).float()
    weight[torch.rand(300, 300, generator=generator) < 0.9] = 0
    encoded, description = encode({"weight": weight})
    assert description["weight"]["sparse"]
    assert description["weight"]["codebooks"] == 1
    assert size(encoded) < weight.nbytes / 12


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("values", [3, 100, 250])
def test_large_tensors_of_few_values(dtype, values):
    weight = torch.randint(0, min(values, 120), (300, 300), generator=torch.Generator().manual_seed(0)).to(dtype)
    encoded, description = encode({"weight": weight})
    assert same(decode(encoded, description)["weight"], weight)
    assert size(encoded) < weight.nbytes or dtype in (torch.int8, torch.uint8), description


def test_a_view_is_stored_without_what_it_is_a_view_of():
    weight = torch.zeros(100, 100).t()[:50]
    encoded, description = encode({"weight": weight})
    assert same(decode(encoded, description)["weight"], weight.contiguous())


def broken(change):
    weight = torch.zeros(16, 16)
    weight[0] = torch.arange(16)
    encoded, description = encode({"w": weight})
    encoded = {name: tensor.clone() for name, tensor in encoded.items()}
    change(encoded, description["w"])
    return encoded, description


@pytest.mark.parametrize(
    "change",
    [
        lambda encoded, how: encoded.pop("w::values"),
        lambda encoded, how: encoded.pop("w::bitmap"),
        lambda encoded, how: encoded["w::bitmap"].fill_(255),
        lambda encoded, how: encoded.update({"w::bitmap": encoded["w::bitmap"][:-1]}),
        lambda encoded, how: encoded.update({"w::values": encoded["w::values"][:-1]}),
        lambda encoded, how: how.update(count=5),
        lambda encoded, how: how.update(shape=[16, 17]),
        lambda encoded, how: how.update(shape=[-16, -16]),
        lambda encoded, how: how.update(dtype="no_such_type"),
        lambda encoded, how: how.update(dtype="load"),
        lambda encoded, how: how.pop("codebooks"),
        lambda encoded, how: how.update(codebooks=1),
        lambda encoded, how: how.update(codebooks="many"),
        lambda encoded, how: how.update(shape="16x16"),
    ],
)
def test_damage_is_an_error_and_never_a_wrong_model(change):
    encoded, description = broken(change)
    with pytest.raises(StoreError, match="the stored tensor 'w' does not fit its description: "):
        decode(encoded, description)


def test_a_code_beyond_the_values_is_refused():
    encoded, description = encode({"w": torch.arange(3).repeat(100).float() + 1})
    assert description["w"]["codebooks"] == 1
    encoded = {**encoded, "w::codes": torch.full_like(encoded["w::codes"], 255)}
    with pytest.raises(StoreError, match="'w' does not fit"):
        decode(encoded, description)
