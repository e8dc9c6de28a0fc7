"""What a state dict may hold, when it is written and when it is read."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from autocompress.compression.state_values import check_state, prepare_state
from autocompress.errors import StoreError


def test_types_and_versions_are_kept():
    inner = OrderedDict(a=(1, [None, {"b": 2.5}]))
    inner._metadata = OrderedDict({"": {"version": 4}})
    found = prepare_state({"x": inner, "y": "text"})
    assert found["x"] == inner
    assert [type(found["x"]), type(found["x"]["a"])] == [OrderedDict, tuple]
    assert found["x"]._metadata == inner._metadata
    assert prepare_state(nn.BatchNorm1d(2).state_dict())._metadata == nn.BatchNorm1d(2).state_dict()._metadata


def test_a_tensor_that_repeats_numbers_gets_memory_of_its_own():
    wide = torch.arange(3.0).expand(5, 3)
    found = prepare_state({"x": wide, "y": [wide], "z": torch.ones(2, dtype=torch.complex64).conj()})
    assert torch.equal(found["x"], wide)
    assert found["x"].is_contiguous()
    assert found["y"][0].is_contiguous()
    assert not found["z"].is_conj()


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1, 2}, r"'x' must be a tensor or plain values .*; it has a set"),
        ([b"a"], r"'x\[0\]' must be a tensor or plain values .*; it has a bytes"),
        ({"a": {1: 2}}, r"a key of 'x\.a' must be a string; got 1"),
        (2**2001, "'x' must have whole numbers of at most 2000 bits"),
        ([torch.eye(2).to_sparse()], r"'x\[0\]' is sparse"),
        (torch.eye(2).to_sparse_csr(), r"'x' is sparse \(torch\.sparse_csr\)"),
        ({"a": torch.eye(2, device="meta")}, r"'x\.a' is on the meta device"),
        (torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8), r"'x' is quantized \(torch\.qint8\)"),
        (torch.zeros(1, dtype=torch.complex32), "'x' is torch.complex32"),
        (nn.LazyLinear(2).weight, "'x' has none yet: run the model once"),
        ([[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]], "must be nested at most 16 deep"),
        ([None] * 100_001, "must have at most 100000 plain values"),
    ],
)
def test_what_cannot_be_stored_is_said_in_one_sentence(value, reason):
    with pytest.raises(StoreError, match=reason) as caught:
        prepare_state({"x": value})
    assert str(caught.value).isprintable()


def test_a_name_that_is_none():
    with pytest.raises(StoreError, match="a key of 'the state dict' must be a string; got 1"):
        prepare_state({1: torch.zeros(1)})


def test_values_of_all_names_count_together():
    many = [None] * 1000
    with pytest.raises(StoreError, match="at most 100000 plain values"):
        check_state({f"x{number}": many for number in range(200)})
    itself = []
    itself.append(itself)
    with pytest.raises(StoreError, match="nested at most 16 deep"):
        check_state({"x": itself})


def test_versions_that_are_none():
    state = OrderedDict()
    state._metadata = {"": 1}
    with pytest.raises(StoreError, match="the versions of the modules"):
        check_state(state)
