"""Removing channels, and taking over what has been removed from a copy."""

from __future__ import annotations

import copy

import pytest
import torch

from autocompress.compress.base import CompressionRequest, layer_shapes
from autocompress.compress.layers import LayerTarget
from autocompress.compress.pruning.channels import Channels
from autocompress.compress.pruning.coupling import removals
from autocompress.compress.pruning.guard import Guard
from autocompress.compress.pruning.mending import on_trial
from autocompress.compress.pruning.removal import Removal, remove
from autocompress.compress.state import evaluating, requiring_gradients

from ..nets import IMAGE, NETS, build


def cut(model: torch.nn.Module) -> list[Removal]:
    request = CompressionRequest("l2", (LayerTarget(("default",), rate=0.5),), IMAGE)
    with evaluating(model), requiring_gradients(model):
        found = Channels.of(model, request, layer_shapes(model))
    return removals([(coupling, on_trial(coupling)) for coupling in found.couplings])


@pytest.mark.parametrize("compared", [True, False])
@pytest.mark.parametrize("net", NETS)
def test_what_was_compared_is_removed_with_its_own_values(net: str, compared: bool) -> None:
    model = build(net)  # fresh: some of its parameters are all alike, and others while it is compared
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    expected, removed = copy.deepcopy(model), cut(model)
    for parameter, own in zip(model.parameters(), expected.parameters(), strict=True):
        own.grad = None if parameter.grad is None else parameter.grad.clone()
    remove(expected, removed)
    guard = Guard(model, IMAGE)
    if compared:
        assert guard.disagreement(removed) is None
    guard.remove(removed)
    assert str(model) == str(expected)
    state, wanted = model.state_dict(), expected.state_dict()
    assert list(state) == list(wanted)
    assert all(torch.equal(state[name], wanted[name]) for name in wanted)
    for parameter, own in zip(model.parameters(), expected.parameters(), strict=True):
        assert parameter.requires_grad == own.requires_grad
        assert parameter.grad is not None
        assert own.grad is not None
        assert torch.equal(parameter.grad, own.grad)


def test_what_was_compared_before_is_not_taken_for_what_goes() -> None:
    model = build("plain")
    removed = cut(model)
    guard = Guard(model, IMAGE)
    assert guard.disagreement(removed[:0]) is None
    assert guard.disagreement(removed) is None
    fewer = [removal for removal in removed if removal.name in ("conv1", "bn1")]
    expected = copy.deepcopy(model)
    remove(expected, fewer)
    guard.remove(fewer)
    assert str(model) == str(expected)
