from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.model_state import copied

from .nets import NETS, build


class Odd(nn.Module):
    """Values of all kinds, a layer at two places, tied and viewed tensors, hooks, None for a child."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.nothing: nn.Module | None = None
        self.register_buffer("view", torch.zeros(8)[2:6])
        self.register_buffer("fleeting", torch.ones(2), persistent=False)
        self.settings: dict[str, Any] = {"a": [1, 2], "b": {"c": torch.ones(1)}}
        self.sizes, self.names, self.empty, self.rate = (1, 2), ["x"], list[int](), 0.5
        self.kept_outside = [self.first]
        self.attention = nn.MultiheadAttention(4, 2)
        self.recurrent = nn.LSTM(4, 4)
        self.convolution = nn.Conv1d(1, 1, 1)
        self.first.register_forward_hook(lambda *_: None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tied(self.again(x))


class Halved(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


class WithAWayOfItsOwn(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return self


def same(one: nn.Module, other: nn.Module) -> None:
    """As far as can be seen from outside."""
    assert [(name, type(module)) for name, module in one.named_modules(remove_duplicate=False)] == [
        (name, type(module)) for name, module in other.named_modules(remove_duplicate=False)
    ]
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])
        assert value.data_ptr() != states[1][name].data_ptr(), f"{name} is shared"
    for left, right in zip(one.modules(), other.modules(), strict=True):
        assert vars(left).keys() == vars(right).keys()
        assert left.training == right.training
        assert len(left._forward_hooks) == len(right._forward_hooks)


@pytest.mark.parametrize("net", NETS)
def test_a_copy_is_what_deepcopy_gives(net: str) -> None:
    model = build(net).eval()
    model.requires_grad_(False)
    twin = copied(model)
    same(model, twin)
    same(copy.deepcopy(model), twin)
    assert not any(parameter.requires_grad for parameter in twin.parameters())


def test_what_belongs_together_still_does() -> None:
    model = Odd()
    twin = copied(model)
    same(model, twin)
    assert twin.again is twin.first
    assert twin.kept_outside[0] is twin.first
    assert twin.tied.weight is twin.first.weight
    assert twin.nothing is None
    assert twin.settings["b"]["c"] is not model.settings["b"]["c"]
    assert twin.names is not model.names
    assert twin.empty is not model.empty
    assert "fleeting" not in twin.state_dict()
    assert torch.equal(twin(torch.ones(1, 4)), model(torch.ones(1, 4)))
    model.first.register_forward_hook(lambda *_: None)
    assert len(twin.first._forward_hooks) == 1


def test_parametrized_weights_are_copied_with_what_is_on_them() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    parametrize.register_parametrization(model[0], "weight", Halved())
    twin = copied(model)
    same(model, twin)
    with torch.no_grad():
        twin[0].parametrizations.weight.original.zero_()
    assert twin[0].weight.abs().sum() == 0
    assert model[0].weight.abs().sum() > 0


def test_a_class_with_a_way_of_its_own_is_copied_that_way() -> None:
    model = nn.Sequential(WithAWayOfItsOwn(2, 2), nn.Linear(2, 2))
    twin = copied(model)
    assert twin[0] is model[0]
    assert twin[1] is not model[1]
