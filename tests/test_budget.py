from __future__ import annotations

import dataclasses
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.budget import AccuracyBudget, accuracy_margin
from autocompress.errors import ConfigError

accuracies = st.floats(-1e6, 1e6)
percents = st.floats(0, 100)


@pytest.mark.parametrize(
    ("relative", "uncompressed", "higher_is_better", "threshold"),
    [
        (1.0, 0.9, True, 0.891),
        (0.0, 0.9, True, 0.9),
        (100.0, 0.9, True, 0.0),
        (1.0, 0.9, False, 0.909),
        (10.0, -2.0, True, -2.2),  # worse is further down
        (10.0, -2.0, False, -1.8),  # worse is up
        (10.0, 0.0, True, 0.0),
        (10.0, 0.0, False, 0.0),
        (5.0, 80.0, True, 76.0),
        (5.0, 80.0, False, 84.0),
    ],
)
def test_a_relative_degradation_is_percent_of_the_magnitude(relative, uncompressed, higher_is_better, threshold):
    budget = AccuracyBudget(maximal_relative_accuracy_degradation=relative)
    assert budget.threshold(uncompressed, higher_is_better=higher_is_better) == pytest.approx(threshold, abs=1e-12)


@pytest.mark.parametrize(
    ("absolute", "uncompressed", "higher_is_better", "threshold"),
    [
        (0.05, 0.9, True, 0.85),
        (0.05, 0.9, False, 0.95),
        (0.0, 0.9, True, 0.9),
        (0.5, -2.0, True, -2.5),
        (0.5, -2.0, False, -1.5),
        (0.5, 0.0, True, -0.5),
        (0.5, 0.0, False, 0.5),
    ],
)
def test_an_absolute_degradation_is_in_the_unit_of_the_evaluator(absolute, uncompressed, higher_is_better, threshold):
    budget = AccuracyBudget(maximal_absolute_accuracy_degradation=absolute)
    assert budget.threshold(uncompressed, higher_is_better=higher_is_better) == pytest.approx(threshold, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0, 1e6), percents)
def test_the_relative_threshold_is_the_formula_of_nncf_to_the_last_bit(uncompressed, relative):
    assert AccuracyBudget(relative).threshold(uncompressed) == uncompressed * (1 - 0.01 * relative)


def test_a_formula_that_rounds_differently_would_break_ties():
    """0.91 x (1 - 0.01 x 2) and 0.91 - 0.01 x 2 x 0.91 are two numbers; the tie is at the first."""
    differing = [
        count / 1000 for count in range(1, 1000) if count / 1000 * (1 - 0.02) != count / 1000 - 0.02 * (count / 1000)
    ]
    assert differing
    for uncompressed in differing:
        threshold = AccuracyBudget(2.0).threshold(uncompressed)
        assert accuracy_margin(uncompressed * (1 - 0.01 * 2.0), threshold) == 0, uncompressed


@settings(deadline=None)
@given(accuracies, percents | st.none(), st.booleans(), st.data())
def test_the_uncompressed_model_is_always_feasible(uncompressed, relative, higher_is_better, data):
    budget = AccuracyBudget(relative, None if relative is not None else data.draw(st.floats(0, 1e6)))
    threshold = budget.threshold(uncompressed, higher_is_better=higher_is_better)
    assert accuracy_margin(uncompressed, threshold, higher_is_better=higher_is_better) >= 0, threshold


@settings(deadline=None)
@given(accuracies, percents)
def test_the_two_directions_mirror_each_other(uncompressed, relative):
    budget = AccuracyBudget(relative)
    assert budget.threshold(uncompressed) == -budget.threshold(-uncompressed, higher_is_better=False)


@pytest.mark.parametrize(
    ("accuracy", "threshold", "higher_is_better", "budget"),
    [
        (0.9, 0.89, True, 0.01),
        (0.88, 0.89, True, -0.01),
        (0.89, 0.89, True, 0.0),
        (2.0, 2.5, False, 0.5),
        (3.0, 2.5, False, -0.5),
        (-3.0, -2.5, True, -0.5),
    ],
)
def test_accuracy_budget_is_positive_inside(accuracy, threshold, higher_is_better, budget):
    assert accuracy_margin(accuracy, threshold, higher_is_better=higher_is_better) == pytest.approx(budget)


RULE = (
    "exactly one of maximal_relative_accuracy_degradation (percent) and "
    "maximal_absolute_accuracy_degradation must be set"
)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), f"{RULE}; neither is given"),
        ((None, None), f"{RULE}; neither is given"),
        ((1.0, 0.5), f"{RULE}; got both (1.0 and 0.5)"),
        ((0.0, 0.0), f"{RULE}; got both (0.0 and 0.0)"),
        ((-1.0,), "maximal_relative_accuracy_degradation must be a finite number >= 0; got -1.0"),
        ((math.nan,), "maximal_relative_accuracy_degradation must be a finite number >= 0; got nan"),
        ((math.inf,), "maximal_relative_accuracy_degradation must be a finite number >= 0; got inf"),
        (("1",), "maximal_relative_accuracy_degradation must be a finite number >= 0; got '1'"),
        ((True,), "maximal_relative_accuracy_degradation must be a finite number >= 0; got True"),
        ((None, -0.5), "maximal_absolute_accuracy_degradation must be a finite number >= 0; got -0.5"),
        ((None, math.nan), "maximal_absolute_accuracy_degradation must be a finite number >= 0; got nan"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        AccuracyBudget(*given)


@pytest.mark.parametrize("uncompressed", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("budget", [AccuracyBudget(1.0), AccuracyBudget(None, 0.1)], ids=["relative", "absolute"])
def test_an_uncompressed_accuracy_that_is_no_number(budget, uncompressed):
    message = f"the uncompressed accuracy must be a finite number; got {uncompressed!r}"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        budget.threshold(uncompressed)


def test_a_budget_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AccuracyBudget(1.0).maximal_relative_accuracy_degradation = 2.0


@pytest.mark.parametrize(
    ("given", "accuracy", "share"),
    [
        ((0.01,), None, "0.01 % of the uncompressed accuracy: next to nothing"),
        ((0.0,), None, "0 % of the uncompressed accuracy: next to nothing"),
        ((60.0,), None, "60 % of the uncompressed accuracy: most of it"),
        ((None, 0.0001), 0.9, "0.0111 % of the uncompressed accuracy: next to nothing"),
        ((None, 3.0), -4.0, "75 % of the uncompressed accuracy: most of it"),
        ((0.05,), None, None),
        ((50.0,), None, None),
        ((None, 0.01), 0.9, None),
        ((None, 0.0001), None, None),
        ((None, 0.5), 0.0, None),
    ],
)
def test_budgets_that_are_hardly_meant(given, accuracy, share):
    unusual = AccuracyBudget(*given).unusual(accuracy)
    assert (unusual is None) == (share is None)
    assert share is None or f"a loss of {share} may be lost; is it meant?" in unusual


def test_an_absolute_budget_of_a_loss_may_be_larger_than_the_loss():
    budget = AccuracyBudget(maximal_absolute_accuracy_degradation=0.05)
    assert budget.unusual(0.023, higher_is_better=False) is None
    assert "most of it may be lost" in budget.unusual(0.023)
