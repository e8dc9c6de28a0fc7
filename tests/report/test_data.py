"""Figures and phrases, as the terminal and reports have them."""

import dataclasses

import pytest

from autocompress.plan import BuiltinTunerEngine, LocalEngine, OptunaEngine
from autocompress.report.data import (
    at_rate,
    counted,
    duration,
    first_line,
    gain,
    holds,
    number,
    percent,
    read_report_data,
    recipe,
    verdict,
)
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Verdict
from tests.written import plan, record

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


@pytest.mark.parametrize(("percent", "confirmed"), [(1.0, False), (0.01, True), (60.0, True)])
def test_a_budget_that_is_hardly_meant_is_confirmed(tmp_path, percent, confirmed):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    settings = AccuracyAwareSettings(maximal_relative_accuracy_degradation=percent)
    store.write_settings(plan(settings=settings).to_dict())
    assert ("--yes" in recipe(read_report_data(store)).command.split()) == confirmed


@pytest.mark.parametrize("engine", [None, OptunaEngine("study"), LocalEngine(), BuiltinTunerEngine()])
def test_the_same_engine_runs_it_again(tmp_path, engine):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    store.write_settings(plan(**({} if engine is None else {"engine": engine})).to_dict())
    words = recipe(read_report_data(store)).command.split()
    assert words.count("--engine") == (engine is not None), "NNI is what is taken without it"
    assert engine is None or words[words.index("--engine") + 1] == engine.name
