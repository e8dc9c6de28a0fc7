"""Why a search found nothing: learning curves of each kind have their sentence."""

import dataclasses

import pytest

from autocompress.errors import InfeasibleBudgetError
from autocompress.records import CouplingSensitivity, Sensitivity
from autocompress.report.data import read_report_data
from autocompress.report.diagnosis import diagnosis
from autocompress.report.verdict import advice
from autocompress.result import CompressionResult
from autocompress.store import Ledger
from tests.written import plan, propose, record

HIGH_RATE = [(0, -0.01), (1, -0.04), (2, -0.03), (3, -0.035)]
RISING = [(0, -0.8), (1, -0.3), (2, -0.15), (3, -0.05)]
FLAT = [(0, -0.2), (1, -0.02), (2, -0.018), (3, -0.02)]


def curve(points):
    return [{"epoch": epoch, "accuracy": 0.891 + margin, "accuracy_margin": margin} for epoch, margin in points]


def outside(rate=0.1, **fields):
    return dataclasses.replace(record(f"at{rate}", rate, feasible=False), **{"epochs": 3, **fields})


def test_training_that_makes_it_worse_is_the_learning_rate():
    (text,) = diagnosis(plan(), [outside(0.1), outside(0.3)], lambda _: curve(HIGH_RATE))
    assert text == (
        "Fine-tuning makes l2 at rate 0.1 worse, 0.03 outside the budget where it was 0.01 before: the learning rate "
        "is too high (learning_rate_factors [1, 0.3, 0.1] tries lower ones)."
    )
    settings = plan().settings.with_changes({"preset": "nncf"})
    (text,) = diagnosis(plan(settings=settings), [outside()], lambda _: curve(HIGH_RATE))
    assert "fine_tuning_schedule linear lets it go to zero" in text


def test_an_accuracy_that_still_rises_is_the_patience():
    (text,) = diagnosis(plan(), [outside()], lambda _: curve(RISING))
    assert text.startswith(
        "The accuracy of l2 at rate 0.1 was still rising after 3 epochs, 0.05 outside the budget: patience_epochs is 3"
    )
    (text,) = diagnosis(plan(), [outside(epochs=5)], lambda _: curve(RISING))
    assert "initial_training_phase_epochs is 5" in text


def test_a_noise_as_large_as_the_budget_is_the_evaluator():
    (text,) = diagnosis(plan(), [outside(accuracy_error=0.02)], lambda _: curve(FLAT))
    assert text.startswith("The evaluator's noise (0.02) is as large as the budget (0.009)")


def sensitive(*halves):
    """A plan whose layers a, b, c ... have these damages at half of their filters."""
    parts = [
        CouplingSensitivity((name,), 16, (1.0, 0.5), (0.0, damage)) for name, damage in zip("abcd", halves, strict=True)
    ]
    probe = Sensitivity("key", "l2", {}, 64, 1.0, tuple(parts))
    return plan(baseline=dataclasses.replace(plan().baseline, sensitivities=(probe,)))


def test_a_layer_that_moves_the_outputs_far_more_than_others_is_to_blame():
    (text,) = diagnosis(sensitive(0.1, 0.2, 4.0, 0.3), [outside(0.5)], lambda _: curve(FLAT))
    assert text.startswith("Removing filters of c alone moves the outputs 20 times as far as those of the other layers")
    assert diagnosis(sensitive(0.1, 0.2, 1.0, 0.3), [outside(0.5)], lambda _: curve(FLAT)) == []


@pytest.mark.parametrize("points", [FLAT, [], [(1, -0.1)], [(0, -0.3)], [(1, -0.3), (2, -0.3), (3, -0.3)]])
def test_without_evidence_nothing_is_said(points):
    assert diagnosis(plan(), [outside(accuracy_error=0.001)], lambda _: curve(points)) == []


def test_the_trial_that_lost_least_tells():
    curves = {"at0.1": HIGH_RATE, "at0.5": RISING}
    (text,) = diagnosis(plan(), [outside(0.5), outside(0.1)], lambda key: curve(curves[key]))
    assert "l2 at rate 0.1" in text
    assert diagnosis(plan(), [record("a", 0.5, feasible=True)], lambda _: curve(RISING)) == []


def test_the_error_and_the_report_say_it(begun):
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.add(dataclasses.replace(record(key, rate, feasible=False), epochs=3))
    for point in curve(HIGH_RATE):
        begun.trial(key).append_epoch(point)
    with pytest.raises(InfeasibleBudgetError, match="the learning rate is too high") as caught:
        _ = CompressionResult(begun).best
    data = read_report_data(begun)
    assert advice(data)[0] == caught.value.reasons[0]
    assert caught.value.reasons == tuple(data.diagnosis)
