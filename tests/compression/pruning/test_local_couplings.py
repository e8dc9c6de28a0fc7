"""Heads and features inside blocks: what goes is right, and it is what scores least."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.layers import FILTER_TYPES, supported_layers
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning import local_couplings as local_couplings_module
from autocompress.compression.pruning import marked_couplings
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.filters import FilterCompression, FilterCompressor
from autocompress.compression.pruning.groups import removals, trial_channels
from autocompress.compression.pruning.local_couplings import attention_modules, local_couplings
from autocompress.compression.pruning.marked_couplings import Permission
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule
from autocompress.testing.zoo import ZooModule

WIDTH, HEADS, SIZE = 16, 4, 4
INPUTS = (torch.randn(2, 6, WIDTH, generator=torch.Generator().manual_seed(0)),)


class Attention(nn.Module):
    """Projections of their own, and a table of relative positions for each head."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.num_heads, self.all_head_size, self.groups = HEADS, WIDTH, groups
        self.query, self.project = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.key, self.value = (nn.Linear(WIDTH, WIDTH // groups) for _ in range(2))
        self.table = nn.Parameter(torch.randn(11, HEADS))
        self.register_buffer("places", torch.arange(6)[:, None] - torch.arange(6) + 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (each(x).unflatten(-1, (-1, SIZE)).transpose(1, 2) for each in self.layers)
        key, value = (each.repeat_interleave(self.groups, 1) for each in (key, value))
        shares = (query @ key.transpose(-1, -2) / 2 + self.table[self.places].permute(2, 0, 1)).softmax(-1)
        assert shares.shape[1] == self.num_heads
        return self.project((shares @ value).transpose(1, 2).reshape(*x.shape[:2], self.all_head_size))

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        return self.query, self.key, self.value


class Fused(nn.Module):
    """One projection for all three, as in timm; the norm of queries is the same for all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.norm = HEADS, nn.LayerNorm(SIZE)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, SIZE)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(self.norm(query), key, value)
        return self.project(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention, self.up, self.down = attention, nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor, *, scale: float) -> torch.Tensor:
        x = x + self.attention(self.first(x)) * scale
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Transformer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        build = {"separate": Attention, "grouped": lambda: Attention(2), "fused": Fused}[kind]
        self.embed, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 5)
        self.blocks, self.norm = nn.ModuleList(Block(build()) for _ in range(2)), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, scale=0.5)
        return self.head(self.norm(x).mean(1))


KINDS = ("separate", "grouped", "fused")


def built(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(kind).eval()


def compressed(model: nn.Module, rate: float, **arguments: Any) -> FilterCompression:
    rules = (LayerRule(("default",), rate=rate),)
    return FilterCompressor().compress(model, CompressionRequest("l2", rules, INPUTS, arguments=arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_cut_of_heads_and_features_is_right(kind: str) -> None:
    model = built(kind)
    layers = supported_layers(model, FILTER_TYPES)
    found = local_couplings(model, INPUTS, layers, Permission(frozenset(layers), frozenset()), TracingEffort())
    gone = removals([(coupling, trial_channels(coupling)) for coupling in found])
    assert CutVerifier(model, INPUTS).mismatch(gone) is None
    heads = HEADS // 2 if kind == "grouped" else HEADS
    units = {coupling.members[0]: coupling.width // coupling.channel_groups for coupling in found}
    assert sorted(units.values()) == [heads, heads, 32, 32]
    attributes = {removal.name: len(removal.channels) for removal in gone if "head" in removal.name.split(".")[-1]}
    assert attributes["blocks.0.attention.num_heads"] == HEADS // 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_heads_of_least_norm_go_and_dead_ones_change_nothing(kind: str) -> None:
    model = built(kind)
    attention, dead = model.blocks[1].attention, slice(SIZE, 2 * SIZE) if kind != "grouped" else slice(0, 2 * SIZE)
    with torch.no_grad():
        attention.project.weight[:, dead] = 0
        for layer in attention.layers if kind != "fused" else (attention.qkv,):
            rows = slice(0, SIZE) if kind == "grouped" and layer is not attention.query else dead
            layer.weight.view(-1, WIDTH)[rows] *= 1e-3
    before, kept = model(*INPUTS), copy.deepcopy(attention.project.weight)
    rate = 0.5 if kind == "grouped" else 0.25
    rules = (
        LayerRule(
            op_names=tuple(
                f"blocks.1.attention.{n}" for n in ("query", "key", "value", "qkv") if hasattr(attention, n)
            ),
            rate=rate,
        ),
    )
    FilterCompressor().compress(model, CompressionRequest("l2", rules, INPUTS))
    left = [column for column in range(WIDTH) if column not in range(WIDTH)[dead]]
    assert torch.equal(attention.project.weight, kept[:, left])
    assert attention.num_heads == len(left) // SIZE
    assert torch.allclose(model(*INPUTS), before, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_hold_the_heads(kind: str, tmp_path: Path) -> None:
    model = built(kind)
    original = copy.deepcopy(model)
    compression = compressed(model, 0.5)
    assert compression.achieved_rate(model) == 0.5
    assert {block.attention.num_heads for block in model.blocks} == {HEADS // 2}
    save_checkpoint(model, tmp_path / "checkpoint", original=original)
    assert torch.equal(load_compressed(tmp_path / "checkpoint", original)(*INPUTS), model(*INPUTS))
    model(*INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_residual_width_stays_unless_it_is_requested() -> None:
    model = built("separate")
    compression = compressed(model, 0.5)
    assert set(compression.left_alone) == {
        "embed",
        *(f"blocks.{index}.{name}" for index in range(2) for name in ("attention.project", "down")),
    }
    assert "prune_residual=true" in compression.left_alone["embed"]
    assert model.embed.out_features == WIDTH
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), INPUTS, arguments={"prune_residual": True})
    with eval_mode(model), require_gradients(model):
        found = Channels.of(built("separate"), request, layer_shapes(built("separate")))
    assert found.residual == frozenset()


@pytest.mark.parametrize("kind", KINDS)
def test_the_residual_width_is_cut_on_request(kind: str, tmp_path: Path) -> None:
    model = built(kind)
    original = copy.deepcopy(model)
    compression = compressed(model, 0.5, prune_residual=True)
    assert compression.left_alone == {}
    assert compression.achieved_rate(model) == 0.5
    assert (model.embed.out_features, model.norm.normalized_shape, model.head.in_features) == (8, (8,), 8)
    for block in model.blocks:
        assert (block.first.normalized_shape, block.up.in_features, block.down.out_features) == ((8,), 8, 8)
        assert (block.attention.num_heads, block.attention.project.out_features) == (HEADS // 2, 8)
    assert model(*INPUTS).shape == original(*INPUTS).shape
    save_checkpoint(model, tmp_path / "checkpoint", original=original)
    assert torch.equal(load_compressed(tmp_path / "checkpoint", original)(*INPUTS), model(*INPUTS))
    model(*INPUTS).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_reaches_the_heads_of_direct_pruning(kind: str) -> None:
    warm = built(kind)
    original = layer_shapes(warm)
    for rate in (0.25, 0.5, 0.75):
        rules = (LayerRule(("default",), rate=rate),)
        compression = FilterCompressor().compress(warm, CompressionRequest("l2", rules, INPUTS, original=original))
        direct = built(kind)
        assert compression.achieved_rate(warm) == compressed(direct, rate).achieved_rate(direct)
        assert layer_shapes(warm) == layer_shapes(direct)
        assert [each.attention.num_heads for each in warm.blocks] == [
            each.attention.num_heads for each in direct.blocks
        ]
    assert {each.attention.num_heads for each in warm.blocks} == {2 if kind == "grouped" else 1}


class Sequences(ZooModule):
    """Data for transformers; no labels and no trainer."""

    @classmethod
    def calibration_data(cls) -> list[torch.Tensor]:
        return [torch.randn(4, 6, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def test_heads_that_do_nothing_go_first_by_sensitivity() -> None:
    model = built("separate")
    with torch.no_grad():
        model.blocks[1].attention.project.weight[:, SIZE:] *= 1e-4
    rules, arguments = (LayerRule(("default",), rate=0.4),), {"allocation": "sensitivity"}
    request = CompressionRequest("l2", rules, INPUTS, arguments=arguments, module=Sequences)
    compression = FilterCompressor().compress(model, request)
    assert compression.achieved_rate(model) == pytest.approx(0.4, abs=0.05)
    first, second = (block.attention.num_heads for block in model.blocks)
    assert first > second
    assert second == 1
    assert model(*INPUTS).shape == (2, 5)


def test_what_can_lose_filters_is_a_share_of_the_parameters() -> None:
    model = nn.Sequential(nn.Embedding(10, WIDTH), built("separate"))
    inputs = (torch.arange(12).view(2, 6) % 10,)
    rules = (LayerRule(("default",), rate=0.5, exclude=False), LayerRule(op_names=("1.blocks.0.up",), exclude=True))
    sizes = {name: sum(each.numel() for each in part.parameters()) for name, part in model.named_modules()}
    compression = FilterCompressor().compress(model, CompressionRequest("l2", rules, inputs))
    table, head = sizes["0"] / sizes[""], sizes["1.head"] / sizes[""]
    assert f"embeddings {table:.0%}" in compression.coverage
    assert f"output layers {head:.0%}" in compression.coverage
    assert f"layers that no rule selects {sizes['1.blocks.0.up'] / sizes['']:.0%}" in compression.coverage
    free = sum(sizes[f"1.blocks.{number}.attention"] for number in range(2)) + sizes["1.blocks.1.up"]
    free += sizes["1.blocks.1.down"]
    assert compression.coverage.startswith(f"{free / sizes['']:.0%} of the parameters can lose filters; not: ")


def test_channels_that_end_in_a_block_are_tried_there_only(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("separate")
    for block in model.blocks:
        block.attention.register_forward_pre_hook(_require_heads)
    tried: list[str] = []
    whole = marked_couplings.verified_coupling

    def counted(block: nn.Module, root: str, *rest: Any) -> Any:
        tried.append(root)
        return whole(block, root, *rest)

    monkeypatch.setattr(local_couplings_module, "verified_coupling", counted)
    layers = supported_layers(model, FILTER_TYPES)
    found = local_couplings(model, INPUTS, layers, Permission(frozenset(layers), frozenset()), TracingEffort())
    assert {root for root in tried if root.endswith(("query", "key", "value"))} == {"block.query"}  # not in `Block`
    assert {name for coupling in found for name in coupling.members} == {"blocks.0.up", "blocks.1.up"}


def _require_heads(module: nn.Module, _: Any) -> None:
    """Code that no attribute changes."""
    if module.query.out_features != WIDTH:
        raise ValueError(module.query.out_features)


def test_attention_is_told_from_the_softmax_of_a_classifier() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(WIDTH, 4), nn.Softmax(-1)))
    assert attention_modules(model, (torch.randn(2, WIDTH),)) == frozenset()
    assert attention_modules(built("fused"), INPUTS) == {"blocks.0.attention", "blocks.1.attention"}
