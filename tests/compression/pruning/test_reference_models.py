"""Inputs that show more than the example inputs."""

from __future__ import annotations

import torch

from autocompress.compression.pruning.reference_models import ONE_SAMPLE, Variation, variations, varied_inputs

PLAIN = Variation(masks=False, numbers=False, values=False)


def test_sizes_of_one_are_tried_longer_first() -> None:
    found = list(variations((torch.zeros(1, 1, 8), torch.zeros(1, 4, 1))))
    assert [each.longer for each in found if each.samples == 2] == [(1, 2), (1,), (2,), ()]
    assert found[-1] == PLAIN
    assert [each.longer for each in variations((torch.zeros(3, 3, 8, 8),)) if each.samples == 2] == [()]


def test_sizes() -> None:
    image, ids = torch.randn(1, 1, 4), torch.zeros(1, 1, dtype=torch.long)
    one, other = varied_inputs((image, ids), Variation(samples=2, longer=(1,)), 10)
    assert (one.shape, other.shape) == ((2, 4, 4), (2, 4))
    assert varied_inputs((torch.randn(5, 3),), ONE_SAMPLE, 2)[0].shape == (1, 3)
    assert varied_inputs((torch.randn(5, 3),), Variation(samples=2), 2)[0].shape == (2, 3)
    unlike = varied_inputs((torch.randn(5, 3), torch.randn(3)), ONE_SAMPLE, 2)
    assert [tuple(each.shape) for each in unlike] == [(5, 3), (3,)]


def test_samples_and_places_differ() -> None:
    (x,) = varied_inputs((torch.ones(1, 1, 4),), Variation(samples=2, longer=(1,)), 2)
    assert len(x.flatten().unique()) == x.numel()
    (ids,) = varied_inputs((torch.zeros(1, 1, dtype=torch.long),), Variation(samples=2, longer=(1,)), 50)
    assert len(ids.unique()) > 1
    assert 0 <= int(ids.min()) <= int(ids.max()) < 50


def test_nothing_changes_where_nothing_may() -> None:
    given = (torch.randn(3, 2), torch.ones(3, dtype=torch.bool), torch.arange(3))
    assert all(map(torch.equal, varied_inputs(given, PLAIN, 7), given))
    floats, mask, numbers = varied_inputs(given, Variation(masks=False), 7)
    assert not torch.equal(floats, given[0])
    assert torch.equal(mask, given[1])
    assert not torch.equal(numbers, given[2])
