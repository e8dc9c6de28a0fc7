import math

import pytest

from autocompress.budget import AccuracyBudget, accuracy_budget
from autocompress.errors import ConfigError


@pytest.mark.parametrize(
    ("uncompressed", "higher", "threshold"),
    [
        (0.9, True, 0.891),
        (0.9, False, 0.909),
        (-3.0, True, -3.03),
        (-3.0, False, -2.97),
        (0.0, True, 0.0),
        (0.0, False, 0.0),
    ],
)
def test_relative_to_the_magnitude(uncompressed, higher, threshold):
    budget = AccuracyBudget(maximal_relative_accuracy_degradation=1.0)
    assert budget.threshold(uncompressed, higher_is_better=higher) == pytest.approx(threshold)


@pytest.mark.parametrize(("higher", "threshold"), [(True, -0.05), (False, 0.05)])
@pytest.mark.parametrize("uncompressed", [0.0, 0.9, -3.0])
def test_absolute(uncompressed, higher, threshold):
    budget = AccuracyBudget(maximal_absolute_accuracy_degradation=0.05)
    assert budget.threshold(uncompressed, higher_is_better=higher) == pytest.approx(uncompressed + threshold)


@pytest.mark.parametrize(("uncompressed", "accuracy"), [(0.9, 0.891), (0.8, 0.792), (0.98, 0.9702)])
def test_a_tie_is_within(uncompressed, accuracy):
    threshold = AccuracyBudget(1.0).threshold(uncompressed)
    assert accuracy_budget(accuracy, threshold) >= 0, (accuracy, threshold)


def test_the_budget_counts_in_the_better_direction():
    assert accuracy_budget(0.9, 0.8) == pytest.approx(0.1)
    assert accuracy_budget(0.9, 0.8, higher_is_better=False) == pytest.approx(-0.1)


@pytest.mark.parametrize("given", [(None, None), (1.0, 0.1)])
def test_exactly_one(given):
    with pytest.raises(ConfigError, match="exactly one of maximal_relative_accuracy_degradation"):
        AccuracyBudget(*given)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "1"])
@pytest.mark.parametrize("name", ["maximal_relative_accuracy_degradation", "maximal_absolute_accuracy_degradation"])
def test_bad_values_are_named(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be a finite number >= 0; got"):
        AccuracyBudget(**{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_uncompressed_accuracy_must_be_finite(value):
    with pytest.raises(ConfigError, match="the uncompressed accuracy must be a finite number"):
        AccuracyBudget(1.0).threshold(value)
