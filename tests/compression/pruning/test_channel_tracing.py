"""Where channels go, seen by marking them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.pruning import channels
from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.dependency_graph import TRACING_SECONDS, TracingEffort
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.errors import CompressionError
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE
from ..structures import STRUCTURES


def provenance(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> ChannelTracer:
    found = ChannelTracer(model, inputs)
    found.trace(name for name, module in model.named_modules() if isinstance(module, FILTER_TYPES))
    return found


def structure(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    build = STRUCTURES[name]
    return build(), (torch.randn(1, *build.shape),)  # type: ignore[attr-defined]


def test_it_ends_at_its_limits_with_a_way_out() -> None:
    effort = TracingEffort(seconds=0.0)
    sum(range(100_000))
    with pytest.raises(CompressionError, match=r"must end within 0 s of processor time and 3 GB .* \(ignored_scopes\)"):
        effort.check()
    effort = TracingEffort(gigabytes=0.05)
    effort.check()
    held = torch.ones(100_000_000)
    with pytest.raises(CompressionError, match=r"and 0\.05 GB of memory; allow more time \(tracing_limit\)"):
        effort.check()
    del held


def test_where_it_ends_the_layers_are_left_alone(monkeypatch, caplog) -> None:
    graph = TRACING_SECONDS  # that of the dependency graph, which ends in time
    monkeypatch.setattr(channels, "TracingEffort", lambda seconds: TracingEffort(seconds if seconds == graph else 0.0))
    model, inputs = structure("split_and_concat")
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), inputs)
    compression = FilterCompressor().compress(model, request)
    assert "first.0" in compression.left_alone
    assert any("keep their filters: tracing the channels must end within" in line for line in caplog.messages)


def test_images_are_no_larger_than_they_need_be() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(8), nn.Conv2d(4, 4, 3))
    assert ChannelTracer(net, (torch.randn(1, 3, 224, 320),))._inputs[0].shape == (1, 3, 64, 96)
    assert ChannelTracer(net, (torch.randn(1, 3, 48, 48),))._inputs[0].shape == (1, 3, 32, 32)
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 98 * 98, 2))
    assert ChannelTracer(whole, (torch.randn(1, 3, 100, 100),))._inputs[0].shape == (1, 3, 100, 100)


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
