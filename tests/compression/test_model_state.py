from __future__ import annotations

import contextlib
import logging
import warnings
from collections import OrderedDict, UserDict, defaultdict
from dataclasses import dataclass
from types import MappingProxyType

import pytest
import torch
from torch import nn

from autocompress.compression.model_state import (
    copy_model,
    eval_mode,
    flatten_tensors,
    forward_outputs,
    frozen,
    map_tensors,
    require_gradients,
    suppress_output,
    temporary_hooks,
    tied_parameters,
)

from .structures import COMPUTED, ComputedWeight


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.other = nn.Linear(2, 2), nn.Linear(2, 2), nn.Dropout(0.5)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.other(self.second(self.first(x)))}


def test_shared_parameters_are_listed_with_all_their_places() -> None:
    assert tied_parameters(Tied()) == [[("first", "weight"), ("second", "weight")]]
    assert tied_parameters(nn.Linear(2, 2)) == []


@pytest.mark.parametrize("how", COMPUTED)
def test_a_model_whose_weights_are_computed_is_copied(how: str) -> None:
    model = ComputedWeight(COMPUTED[how][0])
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model.train()(x).sum().backward()
    copied = copy_model(model)
    with torch.no_grad():
        assert torch.equal(copied.eval()(x), model.eval()(x))
        before = model(x)
        for parameter in copied.parameters():
            parameter.add_(1)
        assert not torch.allclose(copied(x), before)
        assert torch.equal(model(x), before), "the copy has parameters of its own"


def test_a_model_that_keeps_what_it_computed_is_copied() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.biases, self.cache = nn.Parameter(torch.ones(3)), dict[str, list[torch.Tensor]]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.cache["cpu"] = [self.biases * 2]
            return x + self.cache["cpu"][0]

    model, x = Caching(), torch.zeros(3)
    model(x)
    assert torch.equal(copy_model(model)(x), model(x))


def test_the_copy_of_a_scripted_model_learns_what_the_model_does() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)))
    model[0].bias.requires_grad_(False)
    copied = copy_model(model)
    assert [parameter.requires_grad for parameter in copied.parameters()] == [True, False, True, True]
    torch.optim.SGD(copied.parameters(), lr=0.1)  # takes nothing but leaves
    x = torch.ones(1, 2)
    copied(x).sum().backward()
    assert all((each.grad is not None) is each.requires_grad for each in copied.parameters())
    assert torch.equal(copied(x), model(x))


def test_parameters_learn_again_after_they_were_frozen() -> None:
    model = Tied()
    model.other.weight = nn.Parameter(torch.ones(2), requires_grad=False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with contextlib.suppress(ValueError), frozen(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
        raise ValueError("inside")
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert sorted(before.values()) == [False, True, True, True]


def test_each_module_gets_its_own_mode_back() -> None:
    model = Tied().train()
    model.second.eval()
    with contextlib.suppress(ValueError), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise ValueError("inside")
    assert [model.training, model.first.training, model.second.training] == [True, True, False]


def test_gradients_are_restored_by_name_for_replaced_parameters() -> None:
    model = Tied()
    model.first.bias.requires_grad_(False)
    with torch.no_grad(), require_gradients(model):
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert torch.is_grad_enabled()
        model.first.bias = nn.Parameter(torch.ones(2))
    assert not model.first.bias.requires_grad
    assert model.first.weight.requires_grad


def test_hooks_are_removed_when_the_block_fails() -> None:
    layer, calls = nn.Identity(), list[int]()
    with contextlib.suppress(ValueError), temporary_hooks([layer.register_forward_hook(lambda *_: calls.append(1))]):
        layer(torch.zeros(1))
        raise ValueError("inside")
    layer(torch.zeros(1))
    assert calls == [1]


@dataclass
class Answer:
    logits: torch.Tensor
    others: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Frozen:
    first: torch.Tensor
    name: str = "kept"


def test_tensors_are_changed_and_containers_stay_what_they_are() -> None:
    one = torch.ones(2)
    given = (
        [one, {"a": Answer(one, [one])}],
        Frozen(one, "name"),
        OrderedDict(a=one),
        defaultdict(list, a=one),
        UserDict(a=one),
        MappingProxyType({"a": one}),
    )
    found = map_tensors(given, lambda tensor: tensor + 1)
    assert [type(each) for each in found] == [list, Frozen, OrderedDict, defaultdict, UserDict, dict]
    assert type(found[0][1]["a"]) is Answer
    assert found[1].name == "name"
    assert found[3].default_factory is list
    assert [tensor.tolist() for tensor in flatten_tensors(found)] == [[2.0, 2.0]] * 8
    assert all(tensor is one for tensor in flatten_tensors(given))


def test_tensors_are_found_in_all_kinds_of_containers_in_order() -> None:
    one, two, three = (torch.full((1,), value) for value in (1.0, 2.0, 3.0))
    assert flatten_tensors(OrderedDict(a=Answer(one, (two,)), b=[three, "text"])) == [one, two, three]
    changed = map_tensors({"a": (one, [two]), "b": 1}, lambda tensor: tensor + 1)
    assert changed == {"a": (two, [three]), "b": 1}


def test_outputs_are_computed_in_eval_mode_without_gradients() -> None:
    model, x = Tied().train(), torch.ones(3, 2)
    (first,), (second,) = forward_outputs(model, (x,)), forward_outputs(model, (x,))
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert model.training


def test_output_and_warnings_are_suppressed_and_errors_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("some.library")
    logger.setLevel(logging.INFO)
    with warnings.catch_warnings(record=True) as caught, suppress_output("some.library"):
        print("noise")
        warnings.warn("noise", stacklevel=1)
        assert logger.level == logging.ERROR
    assert logger.level == logging.INFO
    assert not caught
    assert capfd.readouterr().out == ""
