"""Which filters belong together, and which must stay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.compression.base import layer_shapes
from autocompress.compression.layers import FILTER_TYPES, supported_layers
from autocompress.compression.model_state import require_gradients
from autocompress.compression.pruning.graph import ChannelGraph

from ..structures import COMPUTED, STRUCTURES, ComputedWeight


def couplings(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[set[str], dict[str, str], dict[str, str]]:
    model.eval()
    with require_gradients(model):
        shapes = layer_shapes(model)
        found, failed, obstacles = ChannelGraph(model, inputs, shapes).couplings(supported_layers(model, FILTER_TYPES))
    return {name for coupling in found for name in coupling.members}, failed, obstacles


def test_wide_classifiers_are_followed() -> None:
    import torchvision

    free, failed, _ = couplings(torchvision.models.alexnet(weights=None), (torch.randn(1, 3, 64, 64),))
    assert {"features.10", "classifier.1", "classifier.4"} <= free
    assert not failed


def test_what_must_stay_is_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.depth = nn.Linear(8, 8), nn.Linear(8, 8)
            self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 3)
            self.second.weight = self.depth.weight
            self.skip = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.depth(torch.relu(self.first(x)))
            return self.head(torch.relu(self.second(x))) + self.skip(x)

    _, failed, obstacles = couplings(Tied(), (torch.randn(2, 8),))
    assert not failed
    assert set(obstacles) == {"first", "depth", "second"}
    assert obstacles["second"] == (
        "second: it is tied to another layer, so that its size must stay; it keeps its filters"
    )
    assert obstacles["first"] == (
        "first: it shares channels with depth, which is tied to another layer, so that its size must stay; it keeps "
        "its filters"
    )
    _, _, obstacles = couplings(STRUCTURES["multihead_attention"](), (torch.randn(2, 6, 12),))
    assert set(obstacles) == {"embed", "down"}
    assert obstacles["embed"].split(": ")[1] == (
        "it shares filters with attention, whose width must stay divisible by its heads; it keeps its filters"
    )


@pytest.mark.parametrize("how", COMPUTED)
def test_weights_that_are_computed_keep_their_size(how: str) -> None:
    make, words = COMPUTED[how]
    found, failed, obstacles = couplings(ComputedWeight(make), (torch.randn(2, 3, 8, 8),))
    assert found == {"second"}
    assert not failed
    assert obstacles == {
        "first": f"first: it has a weight that is computed from other parameters, by {words}, so that its size must "
        "stay; it keeps its filters"
    }


def test_a_single_filter_that_scales_all_channels_is_no_partner() -> None:
    _, failed, _ = couplings(STRUCTURES["spatial_attention"](), (torch.randn(2, 3, 8, 8),))
    assert set(failed) == {"conv", "excite", "spatial"}
    assert {why.split(": ")[1] for why in failed.values()} == {
        "excite shares filters with spatial, which has a single one; it keeps its filters"
    }


def test_layers_whose_weights_are_taken_are_named() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.experts = nn.Linear(8, 12), nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
            self.head, self.unused = nn.Linear(12, 3), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = sum(expert.weight for expert in self.experts)
            return self.head(torch.relu(torch.relu(self.first(x)) @ weight))

    _, _, obstacles = couplings(Mixed(), (torch.randn(2, 8),))
    assert set(obstacles) == {"experts.0", "experts.1"}
    assert obstacles["experts.0"] == (
        "experts.0: its weights are used without calling it, so that its channels cannot be traced; it keeps its "
        "filters"
    )
