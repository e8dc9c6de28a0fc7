"""Removing channels, and taking over what has been removed from a copy."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import Removal, removals, remove, trial_channels
from autocompress.compression.pruning.pruning_plan import PruningPlan
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, build


def cut(model: torch.nn.Module) -> list[Removal]:
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), IMAGE)
    with eval_mode(model), require_gradients(model):
        found = Channels.of(model, request, layer_shapes(model))
    return removals([(coupling, trial_channels(coupling)) for coupling in found.couplings])


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
    guard = CutVerifier(model, IMAGE)
    if compared:
        assert guard.mismatch(removed) is None
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
    guard = CutVerifier(model, IMAGE)
    assert guard.mismatch(removed[:0]) is None
    assert guard.mismatch(removed) is None
    fewer = [removal for removal in removed if removal.name in ("conv1", "bn1")]
    expected = copy.deepcopy(model)
    remove(expected, fewer)
    guard.remove(fewer)
    assert str(model) == str(expected)


def request(rate: float) -> CompressionRequest:
    return CompressionRequest("filter_pruning", (LayerRule(("default",), rate=rate),), IMAGE, arguments={})


def followed(model: nn.Module, original: Mapping[str, object]) -> Channels:
    with eval_mode(model), require_gradients(model):
        return Channels.of(model, request(0.0), original)


def cut_coupling(model: nn.Module, rate: float, channels: Channels) -> None:
    found = PruningPlan.of(model, request(rate), channels)
    remove(model, removals(found.channels_to_remove(found.remaining_for(None))))


def told(channels: Channels) -> dict[str, object]:
    """All that is known of couplings, but for the order of what is not the root, and torch-pruning's own groups."""
    return {
        coupling.members[0]: (
            sorted(coupling.members),
            coupling.channel_groups,
            coupling.places[0].name,
            sorted(
                (place.name, place.prune.__name__, place.dimension, place.channels, sorted(pairs))
                for place in coupling.places
                if (pairs := list(zip(place.indices, place.roots, strict=True)))
            ),
        )
        for coupling in channels.couplings
        if coupling.width > coupling.channel_groups  # else it can lose nothing, and following it may leave it out
    }


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rate", [0.3, 0.6, 0.95])
def test_narrowed_couplings_are_those_that_following_the_narrower_model_gives(net: str, rate: float) -> None:
    model = build(net)
    original = layer_shapes(model)
    whole = followed(model, original)
    for level in (rate / 2, rate):
        cut_coupling(model, level, followed(model, original))
        narrowed = whole.narrowed(model)
        assert narrowed is not None
        assert told(narrowed) == told(followed(model, original))
        assert all(coupling.group is None for coupling in narrowed.couplings), "nothing holds on to the other model"


@pytest.mark.parametrize("net", NETS)
def test_a_cut_by_narrowed_couplings_is_that_of_followed_ones(net: str) -> None:
    models = [build(net), build(net)]
    original = layer_shapes(models[0])
    whole = followed(models[0], original)
    for level in (0.2, 0.5, 0.8):
        narrowed = whole.narrowed(models[0])
        assert narrowed is not None
        cut_coupling(models[0], level, narrowed)
        cut_coupling(models[1], level, followed(models[1], original))
        states = [model.state_dict() for model in models]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items()), level


def test_widths_that_no_cut_leads_to_are_not_taken_for_one() -> None:
    model = build("residual")
    whole = followed(model, layer_shapes(model))
    wider = nn.Conv2d(3, 99, 3)
    name = whole.couplings[0].members[-1]
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, wider)
    assert whole.narrowed(model) is None
