"""Figures and phrases, as the terminal and reports have them."""

import dataclasses

import pytest

from autocompress.errors import beginning
from autocompress.records import Preflight
from autocompress.report.data import read_report_data, reasons
from autocompress.report.page import page
from autocompress.report.verdict import (
    advice,
    at_rate,
    closeness,
    counted,
    duration,
    findings,
    gain,
    headline,
    holds,
    number,
    percent,
    trial_line,
    verdict,
)
from autocompress.store import Ledger, Verdict
from tests.written import finish, plan, propose, record

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
    assert (beginning("\n  a\nb"), beginning(" \n")) == ("a", "(no reason given)")
    assert gain(WITHIN) == "50.0% of the parameters removed, 50.0% smaller"


def test_verdicts_of_trials():
    assert verdict(WITHIN) == "within"
    assert verdict(OUTSIDE) == "outside"
    assert verdict(dataclasses.replace(WITHIN, state="failed", error="it broke\nsomewhere")) == "failed: it broke"
    assert verdict(dataclasses.replace(OUTSIDE, state="stopped")) == "stopped, outside"
    simulated = dataclasses.replace(OUTSIDE, simulated_accuracy=0.9)
    assert verdict(simulated) == "outside as int8; 0.9 in simulation"


@pytest.mark.parametrize(
    ("error", "text"), [(None, "within"), (0.003, "within"), (0.004, "within by less than the noise")]
)
def test_verdicts_within_the_noise(error, text):
    known = dataclasses.replace(WITHIN, accuracy_error=error)
    assert verdict(known) == text
    assert trial_line(known, 1).endswith(f": {text}")
    near = dataclasses.replace(OUTSIDE, accuracy_margin=-0.001, accuracy_error=0.003)
    assert verdict(near) == "outside by less than the noise"


def test_a_margin_stands_beside_its_standard_error():
    near = dataclasses.replace(WITHIN, accuracy_margin=0.0005, accuracy_error=0.0031)
    assert closeness(WITHIN, paired=False) == "0.004 inside the threshold"
    assert closeness(near, paired=False) == "0.0005 +- 0.0031 inside the threshold: within the noise"
    assert closeness(near, paired=True) == (
        "0.0005 +- 0.0031 inside the threshold (compared with the uncompressed model sample by sample): "
        "within the noise"
    )
    far = dataclasses.replace(near, accuracy_margin=-0.0131)
    assert closeness(far, paired=False) == "0.013 +- 0.0031 outside the threshold"
    assert "accuracy 0.895 (+0.0005 +- 0.0031 to the threshold)" in trial_line(near, 1)
    assert closeness(dataclasses.replace(near, accuracy_margin=None), paired=True) == "-"


def test_a_model_that_evaluates_differently_when_loaded_holds_only_if_that_is_within():
    other = Verdict(0.4, None, False)
    assert not holds(WITHIN, other)
    assert holds(WITHIN, Verdict(WITHIN.accuracy, None, True))
    assert verdict(WITHIN, other).startswith("outside; ")


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


@pytest.mark.parametrize(
    ("purpose", "text"),
    [
        ("rate", "trial 2: l2 at rate 0.5: accuracy"),
        ("learning_rate", "trial 2: l2 at rate 0.5 (learning rates times 0.3): accuracy"),
        ("beyond", "trial 2: l2 at rate 0.5 (one step beyond): accuracy"),
        ("final", "trial 2: l2 at rate 0.5 (trained to the end): accuracy"),
    ],
)
def test_a_trial_says_what_it_is_for(purpose, text):
    parameters = {**WITHIN.parameters, "search": {"purpose": purpose}}
    assert trial_line(dataclasses.replace(WITHIN, parameters=parameters, lr_factor=0.3), 2).startswith(text)


def test_a_margin_that_is_required_is_named():
    short = dataclasses.replace(OUTSIDE, accuracy_margin=0.001, accuracy_error=0.002, required_margin=0.0016842)
    assert verdict(short) == "outside by less than the noise; a margin of 0.0017 is required"


def test_where_nothing_holds_the_nearest_is_told(begun):
    finish(Ledger(begun), edge=0.0)
    data = read_report_data(begun)
    assert headline(data) == f"Nothing stayed within the accuracy budget in {len(data.records)} trials."
    assert findings(data)[0] == "Accuracy: 0.9 uncompressed, 0.891 tolerated; the nearest trial reached 0.5."
    assert advice(data)[0] == "Start lower, or allow lower rates: the lowest that was tried is 0.025."


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


def test_trials_of_a_builtin_tuner_have_its_name_as_reason(begun):
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


def test_a_model_that_is_slower_is_told_in_the_headline(ended):
    assert "times as long" not in headline(read_report_data(ended))
    trial = ended.trial(read_report_data(ended).best.key)
    trial.write_sizes(dataclasses.replace(trial.sizes(), seconds_before=0.001, seconds_after=0.0025))
    assert headline(read_report_data(ended)).endswith("budget; in PyTorch it takes 2.5 times as long.")


def test_what_was_compared_sample_by_sample_is_said(begun):
    found = Preflight((0.9,), None, None, 0.1, samples=1000, sampling_error=0.0095)
    begun.write_settings(plan(baseline=dataclasses.replace(plan().measured, preflight=found)).to_dict())
    ledger = Ledger(begun)
    key, rate = propose(ledger)
    ledger.add(dataclasses.replace(record(key, rate, feasible=True), accuracy_error=0.005))
    told = findings(read_report_data(begun))
    assert told[0] == (
        "Accuracy: 0.895 (0.9 uncompressed, 0.891 tolerated): 0.004 +- 0.005 inside the threshold (compared with the "
        "uncompressed model sample by sample): within the noise; not verified yet."
    )
    assert not any(text.startswith("Samples: ") for text in told), "an error that is not that of the comparison"


def test_what_the_number_of_samples_leaves_open(begun):
    found = Preflight((0.9,), None, None, 0.1, samples=1000)
    begun.write_settings(plan(baseline=dataclasses.replace(plan().measured, preflight=found)).to_dict())
    finish(Ledger(begun))
    told = [text for text in findings(read_report_data(begun)) if text.startswith("Samples: ")]
    assert told == ["Samples: 0.895 of 1,000 has a standard error of 0.0097; the margin is no more than that."]
