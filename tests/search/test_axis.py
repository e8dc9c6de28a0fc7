from __future__ import annotations

import pytest

from autocompress.search import RateAxis


@pytest.mark.parametrize(("rate", "snapped"), [(0.0, 0.2), (0.2, 0.2), (0.55, 0.55), (0.9, 0.9), (0.95, 0.9)])
def test_a_continuous_axis_only_clamps(rate, snapped):
    assert RateAxis(0.2, 0.9).snap(rate) == snapped


@pytest.mark.parametrize(
    ("rate", "snapped"),
    [(0.0, 0.25), (0.3, 0.25), (0.4, 0.5), (0.375, 0.25), (0.625, 0.5), (0.63, 0.75), (1.0, 0.75)],
)
def test_a_discrete_axis_takes_the_nearest_and_the_lower_of_two(rate, snapped):
    assert RateAxis(0.25, 0.75, (0.25, 0.5, 0.75)).snap(rate) == snapped


def test_one_allowed_rate():
    assert RateAxis(0.5, 0.5, (0.5,)).snap(0.1) == 0.5
