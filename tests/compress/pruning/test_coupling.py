from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import nn

from autocompress.compress.base import CompressionRequest, layer_shapes
from autocompress.compress.layers import LayerTarget
from autocompress.compress.pruning.channels import Channels
from autocompress.compress.pruning.coupling import removals
from autocompress.compress.pruning.cutting import Cut
from autocompress.compress.pruning.removal import remove
from autocompress.compress.state import evaluating, requiring_gradients

from ..nets import IMAGE, NETS, build


def request(rate: float) -> CompressionRequest:
    return CompressionRequest("filter_pruning", (LayerTarget(("default",), rate=rate),), IMAGE, arguments={})


def followed(model: nn.Module, original: Mapping[str, object]) -> Channels:
    with evaluating(model), requiring_gradients(model):
        return Channels.of(model, request(0.0), original)


def cut(model: nn.Module, rate: float, channels: Channels) -> None:
    found = Cut.of(model, request(rate), channels)
    remove(model, removals(found.chosen(found.wanted(None))))


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
        cut(model, level, followed(model, original))
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
        cut(models[0], level, narrowed)
        cut(models[1], level, followed(models[1], original))
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
