"""Each algorithm on a model under compression: masks that come back, and what removal takes."""

import pytest
import torch
from torch import nn

from autocompress.errors import ConfigError
from tests.nncf.support import FILTERS, SPARSITY, created, train


def test_filters_that_were_masked_come_back():
    controller, model = created(FILTERS)
    weight = model.first[0].weight.detach().clone()
    controller.compression_rate = 0.75
    assert int((model.first[0].weight.flatten(1) == 0).all(1).sum()) == 12
    controller.compression_rate = 0.0
    assert torch.count_nonzero(model.first[0].weight) == torch.count_nonzero(
        controller.uncompressed.original.first[0].weight
    )
    assert not torch.equal(weight, model.first[0].weight), "a quarter was masked at first"
    assert controller.strip().state_dict().keys() == controller.uncompressed.original.state_dict().keys()


def test_masks_empty_exactly_what_removal_takes():
    controller, model = created(FILTERS)
    controller.compression_rate = 0.5
    stripped = controller.strip().eval()
    assert stripped.first[0].weight.shape == (8, 1, 3, 3)
    assert stripped.second[0].weight.shape == (8, 8, 3, 3)
    assert stripped.head.weight.shape == (4, 8)
    assert torch.count_nonzero(model.second[0].weight) == torch.count_nonzero(stripped.second[0].weight)
    assert torch.count_nonzero(model.first[1].weight) == 8, "the BatchNorm's scales are masked too"


def half_empty():
    """Two convolutions in a row; half of the second one's filters compute nothing."""
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    with torch.no_grad():
        second.weight[::2] = 0
        second.bias[::2] = 0
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def test_filters_go_by_equal_damage():
    by_damage = {**FILTERS, "params": {**FILTERS["params"], "allocation": "sensitivity"}}
    controller, _ = created(by_damage, model=half_empty())
    stripped = controller.strip()
    assert (stripped[0].out_channels, stripped[2].out_channels) == (16, 8), "at a quarter, those that compute nothing"
    controller.compression_rate = 0.75
    assert controller.statistics().achieved_rate == pytest.approx(0.75)
    with pytest.raises(ConfigError, match=r"needs inputs to compare .* register data with register_default_init_args"):
        created(by_damage, model=half_empty(), data=False)


def test_masked_filters_do_not_train():
    controller, model = created(FILTERS)
    controller.compression_rate = 0.5
    masked = (model.first[0].weight.flatten(1) == 0).all(1)
    train(controller, model, epochs=2, step=False)
    assert torch.equal((model.first[0].weight.flatten(1) == 0).all(1), masked)


def test_sparsity_freezes():
    frozen = {**SPARSITY, "params": {**SPARSITY["params"], "sparsity_freeze_epoch": 2}}
    controller, model = created(frozen)
    train(controller, model, epochs=3)
    zeros = model.second[0].weight == 0
    train(controller, model, epochs=3, lr=0.5)
    assert torch.equal(model.second[0].weight == 0, zeros)
    moving, other = created(SPARSITY)
    train(moving, other, epochs=3)
    zeros = other.second[0].weight == 0
    train(moving, other, epochs=3, lr=0.5)
    assert not torch.equal(other.second[0].weight == 0, zeros), "without the freeze the masks follow the weights"
