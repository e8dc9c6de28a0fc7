"""Figures and phrases, as the terminal and reports have them."""

import dataclasses

import pytest

from autocompress.report.format import at_rate, counted, duration, first_line, gain, holds, number, percent, verdict
from autocompress.store import Verdict
from tests.written import record

WITHIN, OUTSIDE = record("a", 0.5, feasible=True), record("b", 0.7, feasible=False)


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (0.123456, "0.1235"), (1e-7, "1e-07"), (None, "-"), (float("nan"), "-")]
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7380, "2 h 03 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_phrases():
    assert (percent(0.1234), percent(None)) == ("12.3%", "-")
    assert (counted(1, "trial"), counted(1200, "trial")) == ("1 trial", "1,200 trials")
    assert (at_rate("l2", 0.25), at_rate("qat", None)) == ("l2 at rate 0.25", "qat")
    assert (first_line("\n  a\nb"), first_line(" \n")) == ("a", "(no reason given)")
    assert gain(WITHIN) == "50.0% of the parameters removed, 50.0% smaller"


def test_verdicts_of_trials():
    assert verdict(WITHIN) == "within"
    assert verdict(OUTSIDE) == "outside"
    assert verdict(dataclasses.replace(WITHIN, state="failed", error="it broke\nsomewhere")) == "failed: it broke"
    assert verdict(dataclasses.replace(OUTSIDE, state="stopped")) == "stopped, outside"
    simulated = dataclasses.replace(OUTSIDE, simulated_accuracy=0.9)
    assert verdict(simulated) == "outside as int8; 0.9 in simulation"


def test_a_model_that_evaluates_differently_when_loaded_holds_only_if_that_is_within():
    other = Verdict(0.4, None, False)
    assert not holds(WITHIN, other)
    assert holds(WITHIN, Verdict(WITHIN.accuracy, None, True))
    assert verdict(WITHIN, other).startswith("outside; ")
