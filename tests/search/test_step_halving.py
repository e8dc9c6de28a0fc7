from __future__ import annotations

import dataclasses
import re

import pytest

from autocompress.errors import ConfigError
from autocompress.search import Position, StepHalving

RULE = StepHalving()


def walk(rule, verdicts):
    """The positions that a list of verdicts leads through, the first included; a last None where the search ends."""
    positions = [rule.start()]
    for verdict in verdicts:
        positions.append(rule.advance(positions[-1], verdict))
    return positions


def test_defaults_are_those_of_nncf():
    assert dataclasses.asdict(RULE) == {
        "initial_rate": 0.5,
        "initial_step": 0.1,
        "minimal_step": 0.025,
        "reduction_factor": 0.5,
        "lr_reduction_factor": 0.5,
        "minimal_rate": 0.0,
        "maximal_rate": 0.95,
    }


def test_it_starts_at_the_initial_rate_without_a_direction():
    assert RULE.start() == Position(rate=0.5, step=0.1, direction=0, lr_factor=1.0)


@pytest.mark.parametrize(("feasible", "rate", "direction"), [(True, 0.6, 1), (False, 0.4, -1)])
def test_the_first_move_goes_by_the_verdict_and_never_reduces(feasible, rate, direction):
    assert RULE.advance(RULE.start(), feasible) == Position(rate, 0.1, direction, 1.0)


@pytest.mark.parametrize(("feasible", "rate"), [(True, 0.7), (False, 0.3)])
def test_going_on_keeps_the_step(feasible, rate):
    direction = 1 if feasible else -1
    position = Position(0.5 + 0.1 * direction, 0.1, direction, 0.5)
    assert RULE.advance(position, feasible) == Position(rate, 0.1, direction, 0.5)


@pytest.mark.parametrize(("direction", "rate"), [(1, 0.55), (-1, 0.65)])
def test_a_turn_halves_the_step_and_the_learning_rates_and_then_moves(direction, rate):
    position = Position(0.6, 0.1, direction, 0.5)
    assert RULE.advance(position, direction < 0) == Position(rate, 0.05, -direction, 0.25)


def test_it_ends_when_the_step_falls_below_the_minimum():
    at_the_minimum = walk(RULE, [True, False, True])[-1]
    assert at_the_minimum == Position(0.575, 0.025, 1, 0.25), "a step equal to the minimum still counts"
    assert RULE.advance(at_the_minimum, False) is None
    assert RULE.advance(at_the_minimum, True) == Position(0.6, 0.025, 1, 0.25)


def test_a_target_above_the_maximal_rate_is_clamped_and_tried_once():
    assert [position and position.rate for position in walk(RULE, [True] * 6)] == [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, None]
    assert RULE.advance(Position(0.95, 0.1, 1), False) == Position(0.9, 0.05, -1, 0.5)


def test_a_target_below_the_minimal_rate_is_clamped_and_tried_once():
    rule = StepHalving(minimal_rate=0.15)
    assert [position and position.rate for position in walk(rule, [False] * 5)] == [0.5, 0.4, 0.3, 0.2, 0.15, None]
    assert rule.advance(Position(0.15, 0.1, -1), True) == Position(0.2, 0.05, 1, 0.5)


@pytest.mark.parametrize(("initial_rate", "feasible"), [(0.95, True), (0.0, False)])
def test_a_search_that_starts_at_the_bound_it_would_cross_ends_there(initial_rate, feasible):
    rule = StepHalving(initial_rate=initial_rate)
    assert rule.advance(rule.start(), feasible) is None


def test_one_rate_only():
    rule = StepHalving(initial_rate=0.4, minimal_rate=0.4, maximal_rate=0.4)
    assert [rule.advance(rule.start(), feasible) for feasible in (True, False)] == [None, None]


def test_equal_rates_are_equal():
    """0.5 - 5 x 0.1 is 2.8e-17 in floats, and 0.7 + 0.1 is 0.7999999999999999."""
    assert [position.rate for position in walk(RULE, [False] * 5)] == [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]
    assert RULE.advance(Position(0.7, 0.1, 1), True).rate == 0.8


def test_bounds_with_more_digits_than_rates_are_rounded_to():
    rule = StepHalving(initial_rate=2 / 3, minimal_rate=1 / 3, maximal_rate=2 / 3)
    assert rule.advance(rule.start(), True) is None
    down = walk(rule, [False] * 4)
    assert down[-1].rate == pytest.approx(1 / 3, abs=1e-9)
    assert rule.advance(down[-1], False) is None


def test_the_shortest_step_still_moves():
    rule = StepHalving(initial_step=1e-9, minimal_step=1e-9)
    assert rule.advance(rule.start(), True).rate == 0.500000001
    assert rule.advance(rule.start(), False).rate == 0.499999999


def test_it_keeps_nothing_between_calls():
    position = Position(0.6, 0.1, 1)
    assert RULE.advance(position, False) == RULE.advance(position, False)
    assert position == Position(0.6, 0.1, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        position.rate = 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial_rate": 0.96}, "initial_rate must be in [0.0, 0.95]; got 0.96"),
        ({"initial_rate": 0.1, "minimal_rate": 0.2}, "initial_rate must be in [0.2, 0.95]; got 0.1"),
        ({"initial_step": 0.0}, "initial_step must be >= 1e-09; got 0.0"),
        ({"initial_step": -0.1}, "initial_step must be >= 1e-09; got -0.1"),
        ({"minimal_step": 0.0}, "minimal_step must be in [1e-09, 0.1]; got 0.0"),
        ({"minimal_step": -0.1}, "minimal_step must be in [1e-09, 0.1]; got -0.1"),
        ({"minimal_step": 0.2}, "minimal_step must be in [1e-09, 0.1]; got 0.2"),
        (
            {"minimal_step": 1e-12, "initial_step": 0.1},  # would be rounded to no move at all, for ever
            "minimal_step must be in [1e-09, 0.1]; got 1e-12",
        ),
        ({"reduction_factor": 0.0}, "reduction_factor must be in (0, 1); got 0.0"),
        ({"reduction_factor": 1.0}, "reduction_factor must be in (0, 1); got 1.0"),
        ({"lr_reduction_factor": 0.0}, "lr_reduction_factor must be in (0, 1]; got 0.0"),
        ({"lr_reduction_factor": 1.1}, "lr_reduction_factor must be in (0, 1]; got 1.1"),
        ({"minimal_rate": -0.1}, "minimal_rate must be in [0, 0.95]; got -0.1"),
        ({"minimal_rate": 0.96}, "minimal_rate must be in [0, 0.95]; got 0.96"),
        ({"maximal_rate": 1.1}, "maximal_rate must be in [0, 1]; got 1.1"),
        ({"maximal_rate": float("nan")}, "maximal_rate must be a finite number; got nan"),
        ({"initial_step": float("inf")}, "initial_step must be a finite number; got inf"),
    ],
)
def test_a_setting_outside_its_range(settings, message):
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        StepHalving(**settings)


def test_the_learning_rates_need_not_be_reduced():
    rule = StepHalving(lr_reduction_factor=1.0)
    assert walk(rule, [True, False, True])[-1].lr_factor == 1.0
