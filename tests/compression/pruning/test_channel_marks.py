"""Marks: where they are set, and what they reach."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.compression.pruning.channel_marks import (
    FIXED,
    InputDimension,
    LayerOutput,
    ParameterDimension,
    Source,
    Watch,
    marked_by,
    positions,
    same_marks,
)


class Net(nn.Module):
    """Two layers, a scale between them, and a norm over one of two halves of the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.first(x) * self.scale
        return self.second(torch.cat([self.norm(made[:, :1]), made[:, 1:]], 1))


INPUTS = (torch.randn(2, 2, 3),)


def reached(net: nn.Module, source: Source, *channels: int, width: int = 4) -> list[tuple[str, str, int]]:
    marked = torch.zeros(width).bool()
    marked[list(channels)] = True
    with source.marking(net, INPUTS, marked) as inputs:
        return sorted(positions(marked_by(net, inputs, {})))


def test_channels_of_each_kind_of_source_reach_what_reads_them() -> None:
    net = Net().eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    both = [("by", "norm", 1), ("in", "second", 1)]
    assert reached(net, LayerOutput(net.first), 1) == both
    assert reached(net, ParameterDimension("scale", 0), 1) == both
    assert reached(net, InputDimension(0, 2), 1, width=3) == [("in", "first", 1)]
    assert reached(net, LayerOutput(net.second), 0, width=2) == [FIXED]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not net.first._forward_hooks


def test_all_channels_are_marked_without_a_choice() -> None:
    net = Net().eval()
    with LayerOutput(net.first).marking(net, INPUTS, None) as inputs:
        found = marked_by(net, inputs, {})
    assert [index for _, name, index in positions(found) if name == "second"] == [0, 1, 2, 3]
    assert same_marks(found, dict(found))
    assert not same_marks(found, {place: ~marks for place, marks in found.items()})


@pytest.mark.parametrize("skipped", [(), {("by", "norm")}])
def test_places_are_skipped_and_what_is_marked_in_part_is_noted(skipped: set[tuple[str, str]]) -> None:
    class Half(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.first(x)
            return self.second(self.norm(torch.cat([made[:, :1], torch.ones_like(made[:, 1:])], 1)))

    net, watched = Half().eval(), Watch(skipped, set())
    with LayerOutput(net.first).marking(net, INPUTS, torch.arange(4) == 2) as inputs:
        found = marked_by(net, inputs, {}, watched=watched)
    assert (("by", "norm") in found) == (not skipped)
    assert watched.partial == (set() if skipped else {("by", "norm")})
