"""Couplings of traced sets, and the attributes that count their channels."""

from __future__ import annotations

import torch
from torch import nn

from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import Coupling, removals, remove, trial_channels
from autocompress.compression.pruning.marked_couplings import Permission, outer_modules, verified_coupling

INPUTS = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Split(nn.Module):
    """Splits by a width that it keeps as an attribute, as YOLO's C2f does."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.unrelated = 8, 8
        self.first, self.branch, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.first(x).split((self.c, self.c), 1)
        return self.last(torch.cat([one, other, other + self.branch(other)], 1))


def coupled(model: nn.Module, prunable: set[str]) -> Coupling | None:
    tracer, verifier = ChannelTracer(model, INPUTS), CutVerifier(model, INPUTS)
    tracer.trace(["first", "branch", "last"])
    units, allowed = tracer.coupled_sets("first"), Permission(frozenset(prunable), frozenset())
    assert units is not None
    return verified_coupling(
        model, "first", units, allowed, lambda tried: verifier.mismatch(removals([(tried, trial_channels(tried))]))
    )


def test_the_attribute_that_is_read_changes_and_no_other() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Split().eval()
    found = coupled(model, {"first", "branch"})
    assert found is not None
    remove(model, removals([(found, trial_channels(found))]))
    assert (model.c, model.unrelated, model.first.out_channels, model.last.in_channels) == (4, 8, 8, 12)
    assert model(*INPUTS).shape == (2, 5, 8, 8)


def test_what_may_not_lose_filters_has_no_coupling() -> None:
    assert coupled(Split().eval(), {"first"}) is None


def test_modules_are_named_from_inside_out() -> None:
    assert outer_modules("a.b.c") == ["a.b", "a", ""]
