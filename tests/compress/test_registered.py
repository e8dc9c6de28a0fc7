from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress import register_module
from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import LayerTarget
from autocompress.compress.registered import registered_types
from autocompress.compress.registry import compressor
from autocompress.compress.shipping.checkpoint import load_compressed, save_checkpoint
from autocompress.errors import CompressionError, ConfigError

INPUTS = (torch.randn(2, 6),)


@register_module(ignored_algorithms=["level"])
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight)


@register_module()
class Weightless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU(), Mixer(), nn.ReLU(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("name", ["magnitude_sparsity", "naive", "dorefa", "bnn"])
def test_its_weight_is_compressed(name: str, tmp_path: Path) -> None:
    model, original = net(), net()
    rule = LayerTarget(("Mixer",), rate=0.5) if name == "magnitude_sparsity" else None
    rule = rule or LayerTarget(("Mixer",), quant_types=("weight",), quant={"quant_bits": {"bnn": 1}.get(name, 4)})
    compression = compressor(name).compress(model, CompressionRequest(name, (rule,), INPUTS))
    optimizer = torch.optim.SGD(compression.model.parameters(), lr=0.1)
    compression.model(*INPUTS).square().sum().backward()
    optimizer.step()
    finished = compression.finish(compression.model)
    values = finished.get_submodule("4").weight.unique().numel()
    assert values == 16 * 24 // 2 + 1 if name == "magnitude_sparsity" else values <= 16
    save_checkpoint(finished, tmp_path / "checkpoint", original)
    assert torch.equal(load_compressed(tmp_path / "checkpoint", original)(*INPUTS), finished(*INPUTS))


def test_an_algorithm_may_be_ignored() -> None:
    assert Mixer not in registered_types("level")
    assert Mixer in registered_types("naive")
    with pytest.raises(ConfigError, match="layers of type 'Mixer' cannot be compressed"):
        compressor("level").check(net(), CompressionRequest("level", (LayerTarget(("Mixer",), rate=0.5),), INPUTS))


@pytest.mark.parametrize("name", ["l1", "fpgm"])
def test_its_neighbours_keep_the_filters_it_depends_on(name: str) -> None:
    model = net()
    compression = compressor(name).compress(
        model, CompressionRequest(name, (LayerTarget(("default",), rate=0.5),), INPUTS)
    )
    assert [tuple(layer.weight.shape) for layer in model if hasattr(layer, "weight")] == [
        (10, 6),
        (24, 10),
        (16, 24),
        (3, 16),
    ]
    loss = compression.model(torch.randn(5, 6)).square().sum()
    loss.backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


def test_nothing_else_to_remove_is_told() -> None:
    model = nn.Sequential(nn.Linear(6, 24), Mixer(), nn.Linear(16, 3))
    with pytest.raises(CompressionError, match=r"at rate 0\.5 nothing can be removed: every selected layer"):
        compressor("l1").compress(model, CompressionRequest("l1", (LayerTarget(("default",), rate=0.5),), INPUTS))


def test_one_without_a_weight() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Weightless())
    request = CompressionRequest("naive", (LayerTarget(("Weightless",), quant_types=("weight",)),), INPUTS)
    with pytest.raises(CompressionError, match="a registered module must have a parameter named weight; 1 has none"):
        compressor("naive").compress(model, request)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'levle'; did you mean 'level'"):
        register_module(ignored_algorithms=["levle"])
    with pytest.raises(ConfigError, match=r"register_module must decorate a class of torch\.nn\.Module; got"):
        register_module()(net())  # type: ignore[type-var]
    assert copy.deepcopy(net())
