"""Whether two passes do the same, and whether samples and positions stay apart in one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.pruning.channelwise_mode import NeutralNormalization
from autocompress.compression.pruning.recorded_calls import CallRecord

from ..nets import build
from ..structures import STRUCTURES

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def calls(model: nn.Module, x: torch.Tensor = X, *, training: bool = False) -> CallRecord:
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
