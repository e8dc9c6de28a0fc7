"""Scores of filters, against what their papers' formulas give."""

import pytest
import torch
from torch import nn

from autocompress.compression.pruning.importance import (
    batchnorm_scaled,
    by_filter,
    comparable,
    distance_sums,
    geometric_median_distances,
)


def test_distances_are_to_all_other_filters_of_the_layer():
    layer = nn.Conv2d(2, 5, 3)
    rows = layer.weight.detach().flatten(1)
    expected = [sum(float((row - other).norm()) for other in rows) for row in rows]
    assert geometric_median_distances(layer).tolist() == pytest.approx(expected, rel=1e-4)


def test_the_filter_at_the_geometric_median_matters_least():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])
    assert int(distance_sums(rows).argmin()) == 0


def test_many_rows_are_measured_in_parts():
    rows = torch.randn(2100, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(distance_sums(rows), torch.cdist(rows, rows).sum(1), rtol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_a_transposed_convolution_are_its_outputs(groups):
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    rows = by_filter(layer, layer.weight.detach())
    assert rows.shape[0] == 6
    x = torch.randn(1, 4, 5, 5)
    whole = layer(x)
    for filter_ in range(6):
        with torch.no_grad():
            weight, places = layer.weight.clone(), torch.arange(layer.weight.numel()).view_as(layer.weight)
            layer.weight.view(-1)[by_filter(layer, places)[filter_]] = 0
            differs = (layer(x) - whole).abs().amax(dim=(0, 2, 3)) > 1e-6
            layer.weight.copy_(weight)
        assert differs.nonzero().flatten().tolist() == [filter_]


def test_norms_scale_the_filters_before_them():
    layer, norm = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1))
        norm.weight.copy_(torch.tensor([6.0, 1.0, -1.0]))
        norm.running_var.copy_(torch.tensor([4.0, 1.0, 9.0]) - norm.eps)
    score = batchnorm_scaled(lambda rows: rows.norm(dim=1), {layer: norm})
    assert score(layer).tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert batchnorm_scaled(lambda rows: rows.norm(dim=1), {})(layer).tolist() == pytest.approx([1.0, 2.0, 3.0])


def test_scores_of_couplings_are_made_comparable():
    coupling = type("Coupling", (), {"members": ("a", "b")})()
    assert comparable(coupling, [4.0, 2.0, 6.0], estimates_loss=False) == [0.5, 1.0, 1.5]
    assert comparable(coupling, [4.0, 2.0], estimates_loss=True) == [1.0, 2.0], "for each filter that goes"
    assert comparable(coupling, [0.0, 0.0], estimates_loss=False) == [0.0, 0.0]
