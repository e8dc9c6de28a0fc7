"""What a preflight found, in words."""

import dataclasses
import logging

import pytest

from autocompress.engines.preflight import announce, duration, findings, length_of, time_text
from autocompress.records import Preflight
from autocompress.search.adaptive import SearchLength
from tests.written import plan

FOUND = Preflight((0.9916, 0.9916), 0.0, 0.1, 0.03, step_seconds=0.02, epoch_seconds=4.0, loss=1.234)
LENGTH = SearchLength(trials=10, epochs=30, evaluations=40)


def test_findings():
    assert findings(FOUND) == [
        "evaluator: 0.9916, the same twice, 0.03 s",
        "direction: right (0.1 with the output layer zeroed)",
        "training step: 0.02 s, loss 1.23",
    ]


def test_findings_of_noise_and_of_nothing():
    noisy = dataclasses.replace(FOUND, accuracies=(0.9636, 0.9667), noise=0.0031, damaged=None, step_seconds=None)
    assert findings(noisy) == [
        "evaluator: 0.9636, 0.9667, a noise of 0.0031, 0.03 s",
        "direction: not checked",
        "training step: none, models are only evaluated",
    ]
    late = dataclasses.replace(FOUND, step_seconds=None, late=True)
    assert findings(late)[2] == "training step: not waited for, loss 1.23"
    once = dataclasses.replace(FOUND, accuracies=(0.9916,), noise=None)
    assert findings(once)[0] == "evaluator: 0.9916, 0.03 s"


def test_how_long_a_search_takes():
    assert duration(FOUND, LENGTH) == "search: at most 2 min (10 trials, 30 epochs)"  # 30 * 4 s + 40 * .03 s
    unknown = dataclasses.replace(FOUND, epoch_seconds=None)
    told = "search: at most 10 trials, 30 epochs; evaluations take 1.2 s of it, a training step 0.02 s"
    assert duration(unknown, LENGTH) == told
    untrained = dataclasses.replace(FOUND, step_seconds=None)
    assert duration(untrained, LENGTH) == "search: at most 1.2 s of evaluation (10 trials)"
    late = dataclasses.replace(unknown, step_seconds=None, late=True)
    assert duration(late, LENGTH) == "search: at most 10 trials, 30 epochs; evaluations take 1.2 s of it"
    assert duration(dataclasses.replace(late, epoch_seconds=4.0), LENGTH) == duration(FOUND, LENGTH)
    assert duration(FOUND, None) == "search: as long as it is let"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0213, "0.021 s"), (9.04, "9 s"), (42.4, "42 s"), (720, "12 min"), (12_600, "3.5 h")]
)
def test_durations(seconds, text):
    assert time_text(seconds) == text


def test_a_stock_tuner_takes_as_many_trials_as_it_is_let():
    other = dataclasses.replace(plan(), tuner="TPE")
    assert length_of(other) is None
    assert length_of(other, 4) == SearchLength(trials=4, epochs=4 * 3, evaluations=4 * 4)


def test_the_rule_takes_no_more_trials_than_it_is_let():
    whole, two = length_of(plan()), length_of(plan(), 2)
    settings = plan().settings
    assert whole.trials > 2
    assert two.trials == 2
    assert two.epochs == min(whole.epochs, 2 * max(settings.initial_training_phase_epochs, settings.patience_epochs))
    assert two.evaluations < whole.evaluations
    assert length_of(plan(), 1000) == whole


def test_what_is_logged(caplog):
    found = dataclasses.replace(FOUND, warnings=("look at this",))
    measured = plan().with_baseline(dataclasses.replace(plan().measured, preflight=found), {})
    with caplog.at_level(logging.INFO):
        announce(measured, logging.getLogger("some.engine"), LENGTH)
        announce(plan(), logging.getLogger("some.engine"), LENGTH)  # measured before there were preflights
    assert caplog.messages == [
        *(f"preflight: {line}" for line in (*findings(FOUND), duration(FOUND, LENGTH))),
        "look at this",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO"] * 4 + ["WARNING"]
