"""Where channels go, seen by marking them, and couplings made of it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.channels import Channels, trace_couplings, trial_channels
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import Coupling
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, build
from ..structures import STRUCTURES


def provenance(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> ChannelTracer:
    found = ChannelTracer(model, inputs)
    found.trace(name for name, module in model.named_modules() if isinstance(module, FILTER_TYPES))
    return found


def structure(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    build = STRUCTURES[name]
    return build(), (torch.randn(1, *build.shape),)  # type: ignore[attr-defined]


def test_columns_behind_a_permutation() -> None:
    units = provenance(*structure("channels_last")).coupled_sets("conv")
    assert units is not None
    assert units[3] == [*(("in", "head", 16 * pixel + 3) for pixel in range(16)), ("out", "conv", 3)]


def test_channels_that_are_split_and_put_together() -> None:
    units = provenance(*structure("split_and_concat")).coupled_sets("first.0")
    assert units is not None
    assert units[2] == [("by", "first.1", 2), ("in", "last.0", 2), ("out", "first.0", 2)]
    assert units[18] == [
        ("by", "branch.1", 2),
        ("by", "first.1", 18),
        ("in", "branch.0", 2),
        ("in", "last.0", 18),
        ("in", "last.0", 34),
        ("out", "branch.0", 2),
        ("out", "first.0", 18),
    ]


def test_channels_that_only_go_together() -> None:
    gated = provenance(*structure("gated")).coupled_sets("both")
    assert gated is not None
    assert gated[5] == [("in", "last", 5), ("out", "both", 5), ("out", "both", 21)]
    pixels = provenance(*structure("sub_pixel")).coupled_sets("wide")
    assert pixels is not None
    assert pixels[1] == [("in", "last", 1), *(("out", "wide", channel) for channel in range(4, 8))]


def test_what_reaches_outputs_or_comes_from_inputs_stays() -> None:
    class Through(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = (nn.Conv2d(3, width, 1) for width in (3, 3, 5))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.second(x)
            return self.head(x + self.first(x)), y

    found = provenance(Through(), IMAGE)
    assert found.coupled_sets("first") is None
    assert found.coupled_sets("second") is None
    assert found.coupled_sets("head") is None


def test_channels_mixed_by_attention_are_one_unit_or_stay() -> None:
    units = provenance(*structure("fused_attention")).coupled_sets("qkv")
    assert units is None or max(map(len, units)) > 3


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
    found = trace_couplings(model, IMAGE, untraced, CutVerifier(model, IMAGE))
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
