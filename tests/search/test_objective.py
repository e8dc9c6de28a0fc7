from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError
from autocompress.records import TrialRecord
from autocompress.search import OBJECTIVES, best, nearest_accuracy, require_objective, score
from tests.search.support import trial


def test_every_objective_is_a_field_of_the_record():
    assert set(OBJECTIVES.values()) <= {field.name for field in fields(TrialRecord)}
    assert [require_objective(name) for name in OBJECTIVES] == list(OBJECTIVES)


def test_an_unknown_objective():
    message = "unknown objective 'mac'; did you mean 'macs'? (known: latency, macs, parameters, rate, size)"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        require_objective("mac")


@pytest.mark.parametrize(
    ("reduction", "budget", "threshold", "expected"),
    [
        (0.7, 0.01, 0.9, 0.7),
        (0.7, 0.0, 0.9, 0.7),  # a tie is feasible
        (0.0, 0.5, 0.9, 0.0),
        (0.7, -0.09, 0.9, -0.1),
        (0.7, -0.5, -2.0, -0.25),  # a negative metric: relative to its magnitude
        (0.7, -0.5, 0.0, -0.5),  # absolute where the threshold is zero
    ],
)
def test_score(reduction, budget, threshold, expected):
    assert score(reduction, budget, threshold) == pytest.approx(expected)


@given(
    st.floats(0, 0.999),
    st.floats(-1e6, -1e-6),
    st.floats(-1e6, 1e6).filter(lambda threshold: threshold == 0 or abs(threshold) > 1e-6),
)
def test_an_infeasible_trial_scores_less_than_any_feasible_one(reduction, shortfall, threshold):
    assert score(0.999, shortfall, threshold) < 0 <= score(reduction, 0.0, threshold)


def test_best_is_the_feasible_record_with_the_highest_score():
    records = [trial(0.4), trial(0.6), trial(0.5), trial(0.7, False)]
    assert best(records).requested_rate == 0.6
    assert best(reversed(records)).requested_rate == 0.6


def test_among_equals_the_most_accurate_is_best():
    records = [
        trial(None, key="a", score=0.5, accuracy_margin=0.01),
        trial(None, key="b", score=0.5, accuracy_margin=0.03),
        trial(None, key="c", score=0.5, accuracy_margin=0.02),
    ]
    assert best(records).key == "b"


def test_a_record_without_a_checkpoint_is_not_best():
    assert best([trial(0.4), trial(0.6, checkpoint=None)]).requested_rate == 0.4


@pytest.mark.parametrize(
    "records", [[], [trial(0.5, False)], [trial(0.5, state="failed"), trial(0.6, state="lost")]], ids=len
)
def test_nothing_is_best_where_nothing_is_feasible(records):
    assert best(records) is None


def test_nearest_accuracy_is_that_with_the_highest_budget():
    records = [
        trial(0.5, False, accuracy=3.0, accuracy_margin=-1.0),  # lower is better, the threshold is 2
        trial(0.4, False, accuracy=2.5, accuracy_margin=-0.5),
        trial(0.3, False, accuracy=4.0, accuracy_margin=-2.0),
        trial(0.2, state="failed"),
    ]
    assert nearest_accuracy(records) == 2.5


def test_nearest_accuracy_of_nothing_evaluated():
    assert nearest_accuracy([trial(0.5, state="failed"), trial(0.4, state="lost")]) is None
