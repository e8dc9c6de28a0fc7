"""Forward passes in which no value depends on how many channels lie beside it, nor on chance."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.pruning.channelwise_mode import CallRecord, NeutralNormalization

from ..nets import build
from ..structures import STRUCTURES

X = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
KEPT = [0, 1, 4, 5]


def neutral(layer, x=X):
    with torch.no_grad(), NeutralNormalization():
        return layer(x)


def narrowed(norm, layer):
    """The layer of the kept channels only."""
    with torch.no_grad():
        for name, value in (*norm.named_parameters(), *norm.named_buffers()):
            if value.dim():
                getattr(layer, name).data = value[KEPT].clone()
    return layer


def scaled(norm):
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand(parameter.shape) + 0.5)
    return norm


@pytest.mark.parametrize(
    ("norm", "narrow"),
    [
        (nn.GroupNorm(2, 8), nn.GroupNorm(2, 4)),
        (nn.BatchNorm2d(8), nn.BatchNorm2d(4)),
        (nn.InstanceNorm2d(8, affine=True), nn.InstanceNorm2d(4, affine=True)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_channel_is_the_same_among_fewer(norm, narrow):
    norm, x = scaled(norm).train(), X
    whole = neutral(norm)
    assert torch.allclose(neutral(narrowed(norm, narrow).train(), x[:, KEPT]), whole[:, KEPT], atol=1e-6)


def test_layer_norm_follows_from_the_value_alone():
    norm, x = scaled(nn.LayerNorm(8)), torch.randn(3, 8)
    whole = neutral(norm, x)
    assert torch.allclose(neutral(narrowed(norm, nn.LayerNorm(4)), x[:, KEPT]), whole[:, KEPT], atol=1e-6)
    assert not torch.allclose(norm(x), whole), "outside of it layers are as they were"


def test_a_channel_that_has_come_into_another_group_shows():
    norm, narrow = nn.GroupNorm(2, 8), nn.GroupNorm(2, 4)
    moved = [0, 1, 2, 4]
    assert not torch.allclose(neutral(narrow, X[:, moved]), neutral(norm)[:, moved], atol=1e-3)


def test_running_statistics_are_taken_and_left_in_training_mode_too():
    norm = nn.BatchNorm2d(8).train()
    norm(X)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert torch.allclose(neutral(norm), norm.eval()(X))
    assert all(torch.equal(getattr(norm, name), before[name]) for name in ("running_mean", "running_var"))


def test_dropout_drops_nothing():
    assert torch.equal(neutral(nn.Dropout(0.9).train()), X)


def test_relu_leaks_so_that_every_channel_shows():
    answer = neutral(nn.ReLU())
    assert torch.equal(answer > 0, X > 0)
    assert bool((answer[X < 0] < 0).all())


def test_positions_stay_within_their_bounds():
    positions = torch.arange(-3, 4)
    with NeutralNormalization():
        assert torch.clamp(positions, 0, 2).tolist() == [0, 0, 0, 0, 1, 2, 2]
        assert positions.clamp(min=-1).tolist() == [-1, -1, -1, 0, 1, 2, 3]


def test_wrong_shapes_are_errors_as_outside_of_it():
    with pytest.raises(RuntimeError):
        neutral(nn.LayerNorm(8), torch.randn(3, 7))


X_RECORDED_CALLS = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def calls(model: nn.Module, x: torch.Tensor = X_RECORDED_CALLS, *, training: bool = False) -> CallRecord:
    found = CallRecord(model, (x,))
    with torch.no_grad(), NeutralNormalization(found):
        answer = model.train(training)(x)
    found.record_result(answer)
    return found


class Moded(nn.Module):
    """Does something with two layers."""

    def __init__(self, does: Callable[[Moded, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.does = does

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.does(self, x)


def data_flow(model: Moded, x: torch.Tensor) -> torch.Tensor:
    y = model.one(x)
    return model.other(y if model.training else x)


def answer_only(model: Moded, x: torch.Tensor) -> torch.Tensor:
    y, z = model.one(x), model.other(x)
    return z if model.training else y


@pytest.mark.parametrize(
    "does",
    [
        lambda model, x: model.one(x) * (2 if model.training else 3),
        lambda model, x: (model.one if model.training else model.other)(x),
        lambda model, x: model.one(x)[:, :2] if model.training else model.one(x)[:, 1:],
        lambda model, x: model.one(x) + torch.randn(1) if model.training else model.one(x),
        lambda model, x: functional.rrelu(model.one(x), training=model.training),
        data_flow,
        answer_only,
    ],
)
def test_what_training_changes_shows(does: Callable[[Moded, torch.Tensor], torch.Tensor]) -> None:
    model = Moded(does)
    assert calls(model).same_as(calls(model))
    assert not calls(model).same_as(calls(model, training=True))


@pytest.mark.parametrize(
    "does",
    [
        lambda model, x: torch.relu(model.norm(model.one(x))),
        lambda model, x: functional.dropout(model.one(x), 0.5, model.training),
        lambda model, x: torch.cat([model.one(x), model.norm(x)], 1).mean((2, 3)),
    ],
)
def test_normalizations_and_dropout_are_the_same_in_training(
    does: Callable[[Moded, torch.Tensor], torch.Tensor],
) -> None:
    model = Moded(does)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if "batches" not in name}
    assert calls(model).same_as(calls(model, training=True))
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_what_cannot_be_seen_is_equal_to_nothing() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    model = nn.Sequential(scripted, nn.Conv2d(3, 2, 1))
    assert not calls(model).same_as(calls(model))
    assert not calls(model).keeps_separate


@pytest.mark.parametrize("net", ["plain", "residual", "no_norm"])
def test_samples_stay_apart_in_convolutional_nets(net: str) -> None:
    assert calls(build(net)).keeps_separate


@pytest.mark.parametrize("net", ["channels_last", "channel_shuffle", "fused_attention", "bilinear_pooling"])
def test_samples_or_positions_may_meet(net: str) -> None:
    model = STRUCTURES[net]()
    assert not calls(model, torch.randn(2, *STRUCTURES[net].shape)).keeps_separate  # type: ignore[attr-defined]


def test_dimensions_matter() -> None:
    assert calls(Moded(lambda _, x: torch.flatten(x, 1))).keeps_separate
    assert not calls(Moded(lambda _, x: torch.flatten(x))).keeps_separate
    assert calls(Moded(lambda _, x: x.mean((2, 3)))).keeps_separate
    assert not calls(Moded(lambda _, x: x.mean(1))).keeps_separate
