"""A cut is compared with the model whose removed channels are silent."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.equivalence import CutVerifier, Mismatch
from autocompress.compression.pruning.groups import Coupling, Removal, removals, trial_channels
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, build
from ..structures import STRUCTURES


def followed(model: nn.Module, inputs: tuple[torch.Tensor, ...] = IMAGE) -> Channels:
    """As the dependency graph has it, nothing tried."""
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), inputs)
    with eval_mode(model), require_gradients(model):
        return Channels.of(model, request, layer_shapes(model))


def cut(couplings: tuple[Coupling, ...]) -> list[Removal]:
    return removals([(coupling, trial_channels(coupling)) for coupling in couplings])


def shifted(removed: list[Removal], name: str) -> list[Removal]:
    """The same, but for one column of one layer, in whose place another one goes."""
    found = []
    for removal in removed:
        channels = removal.channels
        if removal.name == name and removal.on_inputs:
            other = min(set(range(len(channels) + 1)) - set(channels))
            channels = tuple(sorted((*channels[:-1], other)))
        found.append(Removal(removal.name, removal.prune, removal.dimension, channels))
    return found


def image(net: str) -> tuple[torch.Tensor]:
    return (torch.randn(1, *STRUCTURES[net].shape, generator=torch.Generator().manual_seed(1)),)  # type: ignore[attr-defined]


@pytest.mark.parametrize("net", NETS)
def test_right_cuts_agree(net: str) -> None:
    model = build(net)
    removed = cut(followed(model).couplings)
    assert len(removed) > 3
    assert CutVerifier(model, IMAGE).mismatch(removed) is None


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("fresh", [True, False])
def test_wrong_columns_of_any_layer_show(net: str, fresh: bool) -> None:
    model = build(net)
    if not fresh:  # all filters nearly the same
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.flatten()[0] + 0.05 * parameter)
    removed = cut(followed(model).couplings)
    consumers = [removal.name for removal in removed if removal.on_inputs and len(removal.channels) > 1]
    assert consumers
    for name in consumers:
        found = CutVerifier(model, IMAGE).mismatch(shifted(removed, name))
        assert found is not None, name
        assert found.difference > 1e-4 or found.error


def test_constant_parameters_hide_nothing() -> None:
    """Everything behind a scale of zeros is zero, whatever columns go."""
    model = build("plain")
    nn.init.zeros_(model.bn1.weight)
    removed = shifted(cut(followed(model).couplings), "conv2")
    found = CutVerifier(model, IMAGE).mismatch(removed)
    assert found is not None
    assert found.where == "conv2"


def test_symmetric_inputs_hide_nothing() -> None:
    model = build("no_norm")
    inputs = (torch.zeros(1, 3, 8, 8),)
    removed = cut(followed(model, inputs).couplings)
    assert CutVerifier(model, inputs).mismatch(removed) is None
    assert CutVerifier(model, inputs).mismatch(shifted(removed, "conv2")) is not None


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.cos, functional.softplus])
def test_non_linearities_that_move_zero_are_no_disagreement(activation: Callable[..., torch.Tensor]) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(activation(self.first(x)))

    model = Moved()
    removed = cut(followed(model).couplings)
    assert CutVerifier(model, IMAGE).mismatch(removed) is None
    assert CutVerifier(model, IMAGE).mismatch(shifted(removed, "second")) is not None


@pytest.mark.parametrize("kind", ["layer", "group", "rms", "local", "batch", "instance"])
def test_normalizations_over_channels_are_no_disagreement_and_hide_nothing(kind: str) -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 5)
            self.norm: nn.Module = {
                "layer": lambda: nn.LayerNorm(16),
                "group": lambda: nn.GroupNorm(4, 16),
                "rms": lambda: nn.LayerNorm(16, bias=False),
                "local": lambda: nn.LocalResponseNorm(3),
                "batch": lambda: nn.BatchNorm1d(16, track_running_stats=False),
                "instance": lambda: nn.InstanceNorm1d(16, affine=True),
            }[kind]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            if isinstance(self.norm, nn.LayerNorm):
                return self.second(torch.relu(self.norm(x)))
            return self.second(torch.relu(self.norm(x.transpose(1, 2)).transpose(1, 2)))

    model, inputs = Normed(), (torch.randn(1, 6, 8),)
    removed = cut(followed(model, inputs).couplings)
    assert CutVerifier(model, inputs).mismatch(removed) is None
    found = CutVerifier(model, inputs).mismatch(shifted(removed, "second"))
    assert found is not None
    assert found.where == "second"


def test_channels_that_change_their_group_show() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(4, 16), nn.Conv2d(16, 5, 1))
    (coupling,) = followed(model).couplings
    assert coupling.channel_groups == 4
    uneven = removals([(coupling, [0, 1, 2, 4])])
    assert CutVerifier(model, IMAGE).mismatch(removals([(coupling, [0, 4, 8, 12])])) is None
    found = CutVerifier(model, IMAGE).mismatch(uneven)
    assert found is not None
    assert found.where == "2"


def test_what_runs_in_training_only_is_tried() -> None:
    model, inputs = STRUCTURES["auxiliary_head"](), image("auxiliary_head")
    found = CutVerifier(model, inputs).mismatch(cut(followed(model, inputs).couplings))
    assert found is not None
    assert found.training
    assert "mat1 and mat2 shapes cannot be multiplied" in str(found.error)


def test_chance_is_no_disagreement() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.dropout = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1), nn.Dropout(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = functional.dropout2d(torch.relu(self.first(x)), 0.5, self.training)
            return self.second(self.dropout(x)) + torch.randn(())

    model = Noisy()
    removed = cut(followed(model).couplings)
    before = torch.get_rng_state()
    assert CutVerifier(model, IMAGE).mismatch(removed) is None
    assert torch.equal(torch.get_rng_state(), before)


def test_only_the_guilty_are_named() -> None:
    model, inputs = STRUCTURES["fused_attention"](), image("fused_attention")
    found = followed(model, inputs)
    guilty = CutVerifier(model, inputs).find_faulty(
        [(coupling, trial_channels(coupling)) for coupling in found.couplings]
    )
    roots = {coupling.members[0] for coupling in found.couplings}
    assert roots - set(guilty) == {"up"}
    assert guilty["qkv"].startswith("qkv: without some of its filters the model fails (RuntimeError: shape '")


def test_what_was_not_compared_in_time_is_not_accepted() -> None:
    model, inputs = STRUCTURES["fused_attention"](), image("fused_attention")
    found = followed(model, inputs)
    chosen = [(coupling, trial_channels(coupling)) for coupling in found.couplings]
    faulty = CutVerifier(model, inputs).find_faulty(chosen, TracingEffort(0))
    assert set(faulty) == {coupling.members[0] for coupling in found.couplings}
    assert all(why.endswith("; it keeps its filters") and "tracing_limit" in why for why in faulty.values())


@pytest.mark.parametrize("net", ["plain", "residual"])
def test_the_model_is_left_as_it_was(net: str) -> None:
    model = build(net)
    removed = cut(followed(model).couplings)
    model.train()
    state, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    CutVerifier(model, IMAGE).mismatch(removed)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert dict(model.named_modules()) == modules
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = build("plain").to(dtype)
    inputs = (IMAGE[0].to(dtype),)
    removed = cut(followed(model, inputs).couplings)
    assert CutVerifier(model, inputs).mismatch(removed) is None
    assert CutVerifier(model, inputs).mismatch(shifted(removed, "conv2")) is not None
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def test_a_model_that_takes_its_example_inputs_only() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if bool((x != 0.5).any()):
                raise ValueError("not an image")
            return self.second(torch.relu(self.first(x)))

    model, inputs = Picky(), (torch.full((1, 3, 8, 8), 0.5),)
    removed = cut(followed(model, inputs).couplings)
    assert CutVerifier(model, inputs).mismatch(removed) is None
    assert CutVerifier(model, inputs).mismatch(shifted(removed, "second")) is not None


def test_sentences_name_the_layer_and_the_reason() -> None:
    assert Mismatch("head", 0.41, in_place=False).sentence("conv") == (
        "conv: its channels are mixed or reordered on the way to head (outputs differ by 0.41 of their scale); "
        "it keeps its filters"
    )
    assert Mismatch("head", 0.41, in_place=True).sentence("conv") == (
        "conv: what is computed from its channels before head depends on all of them, as a mean or a norm does, or on "
        "their number (outputs differ by 0.41 of their scale); it keeps its filters"
    )
    assert Mismatch("head", float("inf"), training=True).sentence("conv") == (
        "conv: its channels are mixed or reordered or depend on each other on the way to head in training mode "
        "(outputs have another shape); it keeps its filters"
    )
    assert Mismatch("x", error="ValueError: no").sentence("conv") == (
        "conv: without some of its filters the model fails (ValueError: no); it keeps its filters"
    )


class Noisy(nn.Module):
    """Noise of the width of a layer, in the ways that it is drawn."""

    def __init__(self, draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.draw = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3), draw
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        x = x * self.draw(x) + self.draw(x) if self.training else x
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.parametrize(
    "draw",
    [
        torch.randn_like,
        torch.rand_like,
        lambda x: torch.randn(x.shape),
        lambda x: torch.empty_like(x).normal_(),
        lambda x: torch.empty(x.shape).bernoulli_(0.5),
        lambda x: functional.dropout(torch.ones_like(x)),
    ],
)
def test_chance_in_training_is_no_disagreement(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    model = Noisy(draw).eval()
    inputs = (torch.randn(2, 3, 8, 8),)
    before = torch.random.get_rng_state()
    removed = cut(followed(model, inputs).couplings)
    assert {removal.name for removal in removed} == {"first", "second", "head"}
    assert CutVerifier(model, inputs).mismatch(removed) is None
    assert torch.equal(torch.random.get_rng_state(), before)


class Attention(nn.Module):
    """Heads made by reshape, of tokens that say nothing where all are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.query, self.key, self.value = nn.Embedding(11, 16), *(nn.Linear(16, 16) for _ in range(3))
        self.project, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.table(ids)
        heads = [each(x).unflatten(-1, (4, -1)).transpose(1, 2) for each in (self.query, self.key, self.value)]
        given = None if mask is None else mask[:, None, None].bool()
        mixed = functional.scaled_dot_product_attention(*heads, attn_mask=given)
        return self.head(self.project(mixed.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(1, 6, dtype=torch.long),),
        (torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 6, dtype=torch.long)),
        (torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.bool)),
        (torch.ones(1, 1, dtype=torch.long),),
        (torch.ones(3, 1, dtype=torch.long), torch.ones(3, 1, dtype=torch.bool)),
    ],
    ids=["ones", "zeros and a mask of numbers", "zeros and a mask of truth values", "a token", "a token and a mask"],
)
def test_heads_that_are_regrouped_show_whatever_the_example_tokens(inputs: tuple[torch.Tensor, ...]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention().eval()
    couplings = [each for each in followed(model, inputs).couplings if {"query", "key"} <= set(each.members)]
    kept_by_head = [0, 1, 3, 4, 7, 8, 11, 15]  # other heads than before are made of these
    removed = removals([(each, sorted(set(range(each.width)) - set(kept_by_head))) for each in couplings])
    assert removed
    assert CutVerifier(model, inputs).mismatch(removed) is not None


class Meeting(nn.Module):
    """Samples and channels change places on the way, which a single sample does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.second(x.transpose(0, 1).reshape(x.shape))


class Square(nn.Module):
    """Positions and channels change places on the way, which a single position does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.second(x.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize(("model", "shape"), [(Meeting(), (1, 3, 8, 8)), (Square(), (1, 1, 8)), (Square(), (4, 1, 8))])
def test_what_sizes_of_one_hide_shows(model: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = (torch.randn(shape),)
    removed = cut(followed(model, inputs).couplings)
    assert removed
    found = CutVerifier(model, inputs).mismatch(removed)
    assert found is not None
    assert found.where == "second"


def test_models_that_take_their_sizes_only() -> None:
    class Strict(Meeting):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.view(1, 3, 8, 8))

    model = Strict()
    removed = cut(followed(model).couplings)
    assert CutVerifier(model, IMAGE).mismatch(removed) is None
    assert CutVerifier(model, IMAGE).mismatch(shifted(removed, "second")) is not None


def test_gates_that_are_shut_hide_nothing() -> None:
    model, inputs = STRUCTURES["shut_gate"](), image("shut_gate")
    found = CutVerifier(model, inputs).mismatch(cut(followed(model, inputs).couplings))
    assert found is not None
    assert found.where == "back"
    assert float(model.gate.detach()) == 0


def test_sentences_tell_what_is_reordered_from_what_depends_on_all() -> None:
    for name, reordered in (("channels_last", True), ("channel_shuffle", True), ("normed_by_hand", False)):
        model, inputs = STRUCTURES[name](), image(name)
        chosen = [(coupling, trial_channels(coupling)) for coupling in followed(model, inputs).couplings]
        (sentence,) = CutVerifier(model, inputs).find_faulty(chosen).values()
        assert ("are mixed or reordered on the way" in sentence) == reordered
        assert ("depends on all of them, as a mean or a norm does" in sentence) != reordered


@pytest.mark.parametrize("net", ["plain", "auxiliary_head"])
def test_passes_are_few(net: str) -> None:
    """One sample, twice in eval mode and once in training mode, unless either is another thing."""
    model = build(net) if net in NETS else STRUCTURES[net]()
    inputs = (torch.randn(4, 3, 8, 8),)
    removed = cut(followed(model, inputs).couplings)
    seen: list[tuple[int, bool]] = []

    def note(module: nn.Module, given: tuple[torch.Tensor]) -> None:
        with torch._C.DisableTorchFunction():
            seen.append((len(given[0]), module.training))

    model.register_forward_pre_hook(note)
    CutVerifier(model, inputs).mismatch(removed)
    in_training = [(1, True)] if net == "plain" else [(1, True), (1, True)]
    assert seen == [(1, False), (1, False), *in_training]


def test_tensors_that_are_plain_attributes_are_no_hindrance() -> None:
    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.first, self.head = torch.tensor([0.5, 0.4, 0.3]), nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.first(x - self.mean[:, None, None])).mean((2, 3)))

    model, inputs = Normalized().eval(), (torch.randn(2, 3, 8, 8),)
    assert CutVerifier(model, inputs).mismatch(cut(followed(model, inputs).couplings)) is None
