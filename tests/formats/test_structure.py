"""How a model differs from the uncompressed one, and what cannot be told so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from autocompress.compression.pruning.attention import split_attention
from autocompress.errors import StoreError
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.structure import apply_structure, load_weights, structure_of
from tests.compression.nets import Words


class Twice(nn.Module):
    """One layer by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: weight_norm(nn.Linear(4, 4)), "and parametrize both or none.*ParametrizedLinear.*has a Linear"),
        (lambda: nn.Linear(4, 4, dtype=torch.complex32), "'weight' is torch.complex32"),
        (lambda: nn.Linear(4, 4).to("meta"), "'weight' is on the meta device"),
        (lambda: nn.Linear(4, 4, bias=False), "these differ: 'bias'"),
        (lambda: nn.Linear(5, 4), "must be no larger than the uncompressed one's"),
    ],
)
def test_what_the_uncompressed_model_is_not(make, reason, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=reason):
        save_checkpoint(make(), tmp_path / "checkpoint", nn.Linear(4, 4))
    assert not (tmp_path / "checkpoint").exists()


def test_a_tensor_that_no_weights_would_fill() -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("passing", torch.ones(8), persistent=False)
    differences = {"attributes": {}, "tensors": {"passing": {"shape": [4], "dtype": "float32"}}, "quantizers": {}}
    with pytest.raises(StoreError, match=r"which stores no tensor '\.passing'"):
        apply_structure(model, {"": differences})


def test_a_shared_layer_that_is_described_twice_otherwise() -> None:
    rest = {"tensors": {}, "quantizers": {}}
    described = {name: {"attributes": {"in_features": size}, **rest} for name, size in (("first", 3), ("second", 2))}
    with pytest.raises(StoreError, match="where 'second' is a shared submodule"):
        apply_structure(Twice(), described)


@pytest.mark.parametrize("tied", [True, False])
def test_tensors_that_are_shared_in_one_of_them(tied: bool, tmp_path: Path) -> None:
    one, other = Words(), Words()
    one.head.weight = nn.Parameter(torch.randn_like(one.embedding.weight))
    pair = (one, other) if tied else (other, one)
    with pytest.raises(StoreError, match=r"must share the tensors that the uncompressed one shares; 'embedding\."):
        save_checkpoint(pair[0], tmp_path / "checkpoint", pair[1])


def test_only_what_differs_is_described_and_applied() -> None:
    whole, smaller = (nn.Sequential(nn.Linear(4, size), nn.ReLU(), nn.Linear(size, 2)) for size in (6, 3))
    described = structure_of(smaller, whole)
    assert described["0"]["attributes"] == {"out_features": 3}
    assert described["2"]["attributes"] == {"in_features": 3}
    assert "1" not in described
    apply_structure(whole, described)
    assert [tuple(parameter.shape) for parameter in whole.parameters()] == [(3, 4), (3,), (2, 3), (2,)]
    load_weights(whole, smaller.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(whole(x), smaller(x))


def split_model() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 4))
    split_attention(model)
    model[1].remove_heads([0, 2])
    return model


def test_attention_without_some_heads_is_described_and_applied() -> None:
    whole = nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 4))
    smaller = split_model()
    described = structure_of(smaller, whole)
    assert described["1"] == {"attributes": {}, "tensors": {}, "quantizers": {}, "replaced_by": "SplitAttention"}
    assert described["1.k_proj"]["attributes"] == {"out_features": 4}
    assert type(whole[1]) is nn.MultiheadAttention, "it is not changed"
    apply_structure(whole, json.loads(json.dumps(described)))
    load_weights(whole, smaller.state_dict())
    x = torch.randn(3, 2, 8)
    assert torch.equal(whole[1](x, x, x)[0], smaller[1](x, x, x)[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"1": {"replaced_by": "Module"}}, "replaced_by"),
        ({"0": {"replaced_by": "SplitAttention"}}, r"has no nn.MultiheadAttention '0' to split"),
        ({"9": {"replaced_by": "SplitAttention"}}, r"has no nn.MultiheadAttention '9' to split"),
        ({"1.q_proj": {"attributes": {"out_features": 2}}}, "of '1' must have the size of"),
        (
            {"1": {"replaced_by": "SplitAttention", "attributes": {"head_dim": 0}}},
            "of '1' must have the size of",
        ),
        (
            {"1": {"replaced_by": "SplitAttention", "attributes": {"num_heads": 2}}},
            "integer attribute '1.num_heads'",
        ),
    ],
)
def test_a_replacement_that_is_not_known_or_does_not_fit(change: dict, reason: str) -> None:
    described = structure_of(split_model(), nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 4)))
    for name, differences in change.items():
        nothing = {"attributes": {}, "tensors": {}, "quantizers": {}}
        described[name] = {**described.get(name, nothing), **differences}
    with pytest.raises(StoreError, match=reason):
        apply_structure(nn.Sequential(nn.Linear(8, 8), nn.MultiheadAttention(8, 4)), described)
