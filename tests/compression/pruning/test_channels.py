"""Where channels go, seen by marking them, and couplings made of it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channels import Channels, trace_couplings
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import Coupling, trial_channels
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, build
from ..structures import STRUCTURES


def structure(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    build = STRUCTURES[name]
    return build(), (torch.randn(1, *build.shape),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("net", NETS)
def test_it_finds_what_the_dependency_graph_finds(net: str) -> None:
    """On models that torch-pruning follows rightly."""
    model = build(net)
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), IMAGE)
    with eval_mode(model), require_gradients(model):
        channels = Channels.of(model, request, layer_shapes(model))
    roots = [coupling.members[0] for coupling in channels.couplings]
    state = copy.deepcopy(model.state_dict())
    untraced = replace(channels, couplings=(), left_alone=dict.fromkeys(roots, "to be traced"))
    found, _ = trace_couplings(model, IMAGE, untraced, CutVerifier(model, IMAGE))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    def told(coupling: Coupling) -> object:
        places = [
            (place.name, place.prune.__name__, sorted(place.indices), place.channels) for place in coupling.places
        ]
        return sorted(coupling.members), coupling.channel_groups, coupling.width, sorted(places)

    assert sorted(map(told, found)) == sorted(map(told, channels.couplings))


@pytest.mark.parametrize(("name", "parts"), [("split_and_concat", 2), ("gated", 2), ("sub_pixel", 4)])
def test_parts_that_must_lose_the_same(name: str, parts: int) -> None:
    model, inputs = structure(name)
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), inputs)
    with eval_mode(model), require_gradients(model):
        found = Channels.of(model, request, layer_shapes(model)).with_verified(model, request)
    assert not found.left_alone
    assert max(coupling.channel_groups for coupling in found.couplings) == parts


def test_trials_take_more_of_the_first_half() -> None:
    coupling = Coupling((), (), 1)
    for width in (16, 32, 64):
        going = trial_channels(Wide(coupling.places, coupling.members, 1, width))
        assert len(going) == width // 2
        assert sum(channel < width // 2 for channel in going) > width * 0.3


class Wide(Coupling):
    """So many channels that lie nowhere."""

    @property
    def width(self) -> int:
        return int(self.group)
