"""The zero test sees a cut that is wrong."""

import copy

import pytest
import torch
from torch import nn

from autocompress.testing.zeroed import check_zeroed, with_distinct_values

INPUTS = (torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)
KEPT = [0, 2, 5]


@pytest.fixture
def whole():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    return with_distinct_values(nn.Sequential(*layers)).eval()


def cut(whole, columns=KEPT, scales=KEPT):
    smaller = copy.deepcopy(whole)
    with torch.no_grad():
        for layer, names, kept in ((smaller[0], ("weight", "bias"), KEPT), (smaller[1], _NORM, scales)):
            for name in names:
                value = getattr(layer, name)[kept].clone()
                setattr(layer, name, nn.Parameter(value) if name in ("weight", "bias") else value)
        smaller[3].weight = nn.Parameter(smaller[3].weight[:, columns].clone())
    return smaller


_NORM = ("weight", "bias", "running_mean", "running_var")


def test_a_right_cut_passes(whole):
    check_zeroed(whole, cut(whole), INPUTS)


def test_columns_of_other_channels_are_seen(whole):
    with pytest.raises(AssertionError, match="whose lost filters are zero; outputs differ by"):
        check_zeroed(whole, cut(whole, columns=[0, 5, 2]), INPUTS)


def test_scales_of_other_channels_are_seen(whole):
    with pytest.raises(AssertionError):
        check_zeroed(whole, cut(whole, scales=[0, 2, 4]), INPUTS)


def test_marking_makes_all_values_differ_and_changes_no_weight():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    found = with_distinct_values(model)
    assert torch.equal(found[0].weight, model[0].weight)
    for values in (found[0].bias, found[1].weight, found[1].running_mean, found[1].running_var):
        assert values.unique().numel() == 6
    assert model[1].weight.unique().numel() == 1, "a copy is marked"
