"""Forward passes in which no value depends on how many channels lie beside it, nor on chance."""

import pytest
import torch
from torch import nn

from autocompress.compression.pruning.channelwise_mode import NeutralNormalization

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


def test_wrong_shapes_are_errors_as_outside_of_it():
    with pytest.raises(RuntimeError):
        neutral(nn.LayerNorm(8), torch.randn(3, 7))
