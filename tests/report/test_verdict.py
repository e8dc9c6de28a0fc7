"""The verdict in words."""

import dataclasses

import pytest

from autocompress.report.data import read_report_data, reasons, verdict
from autocompress.report.page import page
from autocompress.report.verdict import advice, findings, headline
from autocompress.store import Ledger, Verdict
from tests.written import finish, plan, propose, record


def test_what_was_found_and_how_sure_it_is(ended):
    data = read_report_data(ended)
    assert headline(data) == (
        "l2 at rate 0.575 removes 57.5% of the parameters and 57.5% of the multiply-accumulates, and makes the file "
        "57.5% smaller, within the accuracy budget."
    )
    assert findings(data) == [
        "Accuracy: 0.895 (0.9 uncompressed, 0.891 tolerated): 0.004 inside the threshold; 0.895 when loaded afresh.",
        "Hold-out: 0.87 (0.88 uncompressed, 0.8712 tolerated by the same budget): 0.0012 outside it.",
        "Margin: more than the 0.002 by which its accuracy moved from epoch to epoch.",
        "Nearest failure: l2 at rate 0.6, accuracy 0.5, short by 0.39.",
        "Latency: 3 ms before, 1 ms after, 3 times as fast in PyTorch.",
        "Search: 4 trials, 12 epochs of training, 6 s of trials, chosen by AdaptiveCompression.",
    ]


def test_what_to_try_next_after_a_success(ended):
    tips = advice(read_report_data(ended))
    assert tips[0].startswith("Use more validation data, or a tighter budget")
    assert "Take smaller steps: minimal_compression_rate_step is 0.025." in tips
    assert "Train longer at each rate: patience_epochs is 3." in tips
    assert tips[-1].startswith("Quantize what is left: l2+qat")


def test_where_nothing_failed_it_is_told_to_search_higher(begun):
    finish(Ledger(begun), edge=1.0)
    data = read_report_data(begun)
    assert "Nearest failure: none" in "".join(findings(data))
    assert advice(data)[0].startswith("Search higher: nothing failed up to 0.95")


def test_where_nothing_holds_the_nearest_is_told(begun):
    finish(Ledger(begun), edge=0.0)
    data = read_report_data(begun)
    assert headline(data) == f"Nothing stayed within the accuracy budget in {len(data.records)} trials."
    assert findings(data)[0] == "Accuracy: 0.9 uncompressed, 0.891 tolerated; the nearest trial reached 0.5."
    assert advice(data)[0] == "Start lower, or allow lower rates: the lowest that was tried is 0."


def test_a_margin_within_the_noise_is_called_so(begun):
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.add(record(key, rate, feasible=True))
    for epoch, accuracy in enumerate((0.86, 0.895), 1):
        begun.trial(key).append_epoch({"epoch": epoch, "accuracy": accuracy})
    assert "Margin: no more than the 0.035" in "".join(findings(read_report_data(begun)))


def test_a_metric_that_is_better_when_lower(begun):
    baseline = dataclasses.replace(plan().baseline, higher_is_better=False, accuracy=0.1, holdout_accuracy=0.2)
    begun.write_settings(plan(baseline=baseline).to_dict())
    ledger = Ledger(begun)
    key, rate = propose(ledger, plan(baseline=baseline))
    ledger.add(dataclasses.replace(record(key, rate, feasible=True), accuracy=0.1005, accuracy_margin=0.0005))
    data = read_report_data(begun)
    assert data.plan.threshold == pytest.approx(0.101)
    assert data.holdout_threshold == pytest.approx(0.202)


def test_why_each_trial_was_tried(ended):
    assert reasons(read_report_data(ended)) == [
        "the initial rate",
        "within, so up by 0.1",
        "outside, so down by 0.05 (turned: smaller steps)",
        "within, so up by 0.025 (turned: smaller steps)",
    ]


def test_trials_of_a_stock_tuner_have_its_name_as_reason(begun):
    begun.write_settings(plan(tuner="TPE").to_dict())
    Ledger(begun).add(record("a", 0.4, feasible=True))
    assert reasons(read_report_data(begun)) == ["chosen by TPE"]


def test_a_killed_trial_is_run_again(begun):
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.close(key)
    _, rate = propose(ledger)
    ledger.add(record(key, rate, feasible=True))
    assert reasons(read_report_data(begun))[1] == "run again, as its process was killed"


DIFFERS = "the evaluator is not deterministic or leaves the model in training mode"


def test_a_trial_that_evaluates_differently_when_loaded_afresh_is_told(begun):
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.add(record(key, rate, feasible=True))
    ledger.add_verdict(key, Verdict(0.88, None, False))
    data = read_report_data(begun)
    assert headline(data) == "Nothing stayed within the accuracy budget in 1 trial."
    assert findings(data)[:2] == [
        "Accuracy: 0.9 uncompressed, 0.891 tolerated; the nearest trial reached 0.88.",
        f"Verification: l2 at rate 0.5 evaluates differently when loaded afresh: 0.88 against 0.895; {DIFFERS}.",
    ]
    assert advice(data)[0].startswith("Let the evaluator call model.eval()")
    told = f"outside; evaluates differently when loaded afresh: 0.88 against 0.895; {DIFFERS}"
    assert verdict(data.records[0], data.verdicts[key]) == told
    shown = page(data, "trials")
    assert f'<td class="text outside">{told}</td>' in shown
    assert f"<li>Verification: l2 at rate 0.5 {told.partition('; ')[2]}.</li>" in shown


def test_where_it_agrees_nothing_is_said(ended):
    data = read_report_data(ended)
    assert "Verification" not in "".join(findings(data))
    assert verdict(data.best, data.verdict) == "within"
    assert "evaluates differently" not in page(data, "trials")


def test_an_int8_model_that_is_worse_than_its_simulation_is_told(begun):
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    found = dataclasses.replace(record(key, rate, feasible=False), algorithm="l2+qat", simulated_accuracy=0.892)
    ledger.add(found)
    assert (
        "Int8: 1 trial within the budget in simulation, and outside as the int8 model that was saved; the last l2+qat "
        "at rate 0.5, 0.892 and 0.5."
    ) in findings(read_report_data(begun))
    assert verdict(found) == "outside as int8; 0.892 in simulation"
