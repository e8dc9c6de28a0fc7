from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.compression.pruning.widths import CouplingWidth, global_widths, kept_filters, local_widths, solve_rate

RATES = st.floats(0, 0.999)


@given(st.integers(1, 600), RATES, st.sampled_from([1, 2, 4]), st.sampled_from([1, 4, 8, 16]))
def test_what_stays_is_a_multiple_wherever_the_layer_is_wide_enough(parts, rate, groups, round_to):
    width = parts * groups
    kept = kept_filters(width, rate, groups, round_to)
    step = math.lcm(groups, round_to)
    assert groups <= kept <= width
    assert kept % step == 0 or kept == width
    if step <= width:
        assert abs(kept - width * (1 - rate)) <= step


@given(st.lists(st.tuples(st.integers(2, 64), st.integers(1, 3)), min_size=1, max_size=6), RATES, RATES, st.data())
def test_a_global_ranking_removes_the_share_and_more_at_a_higher_rate(layers, first, second, data):
    scores = [sorted(data.draw(st.lists(st.floats(0.1, 9), min_size=w, max_size=w))) for w, _ in layers]
    gone = []
    for rate in sorted((first, second)):
        slots = [CouplingWidth(width, width, 1, members, rate) for width, members in layers]
        kept = global_widths(slots, scores)
        assert all(1 <= count <= slot.width for count, slot in zip(kept, slots, strict=True))
        gone.append(sum((slot.width - count) * slot.members for count, slot in zip(kept, slots, strict=True)))
        possible = sum((slot.width - 1) * slot.members for slot in slots)
        wanted = rate * sum(slot.width * slot.members for slot in slots)
        assert abs(gone[-1] - min(wanted, possible)) <= max(slot.members for slot in slots)
    assert gone[0] <= gone[1]


def test_a_global_ranking_takes_the_lowest_scores_wherever_they_are():
    slots = [CouplingWidth(4, 4, 1, 1, 0.5), CouplingWidth(4, 4, 1, 1, 0.5)]
    assert global_widths(slots, [[0.1, 0.2, 0.3, 5.0], [1.0, 2.0, 3.0, 4.0]]) == [1, 3]
    assert local_widths(slots) == [2, 2]


def test_what_is_gone_already_counts():
    slots = [CouplingWidth(2, 4, 1, 1, 0.5), CouplingWidth(4, 4, 1, 1, 0.5)]
    assert global_widths(slots, [[0.1, 0.2], [1.0, 2.0, 3.0, 4.0]]) == [1, 3]


def test_staggered_layers_change_one_by_one():
    slots = [CouplingWidth(64, 64, 1, 1, rate=0.5) for _ in range(4)]
    total = {
        rate: sum(local_widths([CouplingWidth(64, 64, 1, 1, rate)] * 4, staggered=True)) for rate in (0.5, 0.504, 0.508)
    }
    assert sum(local_widths(slots)) == 128
    assert total[0.5] > total[0.504] > total[0.508]


@pytest.mark.parametrize("target", [0.01, 0.2, 0.5, 0.77, 0.95])
def test_a_share_is_met(target):
    asked = []

    def share(rate):
        asked.append(rate)
        return 1 - (1 - rate) ** 2.3

    assert abs(share(solve_rate(target, share)) - target) <= 0.0025
    assert len(asked) <= 10


def test_what_cannot_be_reached_ends_at_the_most():
    assert solve_rate(0.9, lambda rate: 0.4 * rate) == pytest.approx(1, abs=1e-3)
