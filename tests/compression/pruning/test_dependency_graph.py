"""Following channels ends, whatever torch-pruning makes of the structure."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autocompress.compression.base import layer_shapes
from autocompress.compression.model_state import require_gradients
from autocompress.compression.pruning import dependency_graph
from autocompress.compression.pruning.graph import ChannelGraph

from ..nets import IMAGE, build
from ..structures import STRUCTURES


def couplings(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[set[str], dict[str, str], dict[str, str]]:
    model.eval()
    with require_gradients(model):
        shapes = layer_shapes(model)
        found, failed, obstacles = ChannelGraph(model, inputs, shapes).couplings(shapes)
    return {name for coupling in found for name in coupling.members}, failed, obstacles


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("generated_weights", {"first", "make"}),
        ("conditional_weights", {"stem", "route"}),
        ("bilinear_pooling", {"last"}),
    ],
)
def test_channels_that_multiply_are_given_up(name: str, layers: set[str]) -> None:
    """Without a bound the second takes minutes."""
    model = STRUCTURES[name]()
    free, failed, _ = couplings(model, (torch.randn(2, *STRUCTURES[name].shape),))  # type: ignore[attr-defined]
    assert {layer for layer, why in failed.items() if "cannot be traced, as their number multiplies" in why} == layers
    assert not free & layers


def test_the_bound_is_on_steps_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    free, failed, _ = couplings(build("residual"), IMAGE)
    assert free
    assert not failed
    monkeypatch.setattr(dependency_graph, "_MOST_STEPS", 10)
    free, failed, _ = couplings(build("residual"), IMAGE)
    assert not free
    assert all(why.endswith("their number multiplies; it keeps its filters") for why in failed.values())
