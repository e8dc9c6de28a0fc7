"""What a running search looks like at several moments, read from its directory."""

import io
import json
import os
import time

import pytest
from rich.console import Console

from autocompress.cli.live_display import Display, Lines, live_view, progress_text, watching
from autocompress.cli.snapshot import Reader, take
from autocompress.records import Baseline, Measurement, TrialRecord
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial, Verdict
from autocompress.trial.process import PROGRESS_FILE
from tests.written import finish, plan, record

URL = "http://127.0.0.1:8080/secret/oview"


def shown(store, seconds=12.0, url=URL, width=100, **options):
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(live_view(take(store), url, seconds, **options))
    return console.export_text()


def test_before_the_baseline_is_measured(tmp_path):
    assert "measuring the uncompressed model ... 12 s" in shown(ExperimentDirectory(tmp_path / "nothing"))


def test_how_far_measuring_is(tmp_path):
    file = tmp_path / "progress.json"
    assert progress_text(file) is None
    file.write_text(json.dumps({"what": "measuring how sensitive each layer is (l2)", "done": 5, "of": 20}))
    found = progress_text(file)
    text = shown(ExperimentDirectory(tmp_path / "nothing"), measuring=found)
    assert f"measuring how sensitive each layer is (l2) {20 * '━'} 5 of 20 12 s" in text
    assert [(span.end - span.start, span.style) for span in found.spans] == [(5, "cyan"), (15, "dim")]
    file.write_text('{"what": "measuring')
    assert progress_text(file) is None


def test_before_the_first_trial(new_store):
    assert "starting" in shown(new_store, url=None)
    assert "next: l2 at rate 0.5, up to 5 epochs" in shown(new_store)
    assert "best     nothing yet" in shown(new_store)


def test_while_a_trial_runs(store):
    text = shown(store)
    assert "accuracy 0.9 uncompressed, at least 0.891 to hold" in text
    assert "search   Cliff: 2 trials, 6 epochs, 12 s" in text
    assert f"page     {URL}" in text
    assert "l2 at rate 0.55: epoch 2 of 3, accuracy 0.85 against 0.891" in text
    assert "best     l2 at rate 0.5, 50.0%" in text


def test_a_trial_before_its_first_evaluation(store):
    store.trial("key2").clear()
    assert "l2 at rate 0.55: before the first evaluation" in shown(store)


def test_several_trials_at_a_time(store):
    Ledger(store).propose(PendingTrial("other", {"algorithm_name": {"_name": "l1", "x::sparsity": 0.25}}))
    text = shown(store)
    assert "l2 at rate 0.55: epoch 2 of 3" in text
    assert "l1 at rate 0.25: before the first evaluation" in text


def test_after_a_trial_the_next_one_is_told(store):
    Ledger(store).add(record("key2", 0.55, feasible=True))
    text = shown(store)
    assert "best     l2 at rate 0.55" in text
    assert "next: l2 at rate 0.575" in text


def test_the_end(new_store):
    ledger = Ledger(new_store)
    finish(ledger)
    assert "loading the best model afresh" in shown(new_store)
    ledger.add_verdict(take(new_store).best.key, Verdict(0.895, None, True))
    assert "loading" not in shown(new_store)
    assert "next" not in shown(new_store)


def test_the_last_picture_has_nothing_going_on(store, tmp_path):
    text = shown(store, ended=True)
    assert "l2 at rate 0.55" not in text
    assert "best     l2 at rate 0.5" in text
    assert shown(ExperimentDirectory(tmp_path / "nothing"), ended=True).strip() == ""


def test_one_is_not_plural(new_store):
    Ledger(new_store).add(record("key0", 0.5, feasible=True))
    assert "search   Cliff: 1 trial, 3 epochs, 1 min 05 s" in shown(new_store, seconds=65)


def test_ctrl_c_is_answered(store):
    assert "stopping: running trials are interrupted" in shown(store, stopping=True)


def test_a_failed_trial_is_shown_with_its_reason_in_one_line(store):
    reason = "\nValueError: no\n  second line"
    Ledger(store).add(TrialRecord(key="key2", algorithm="l2", state="failed", requested_rate=0.55, error=reason))
    assert "failed: ValueError: no\n" in shown(store)


def test_a_stopped_trial_says_so(store):
    interrupted = TrialRecord(**{**vars(record("key2", 0.55, feasible=True)), "state": "stopped"})
    Ledger(store).add(interrupted)
    assert "stopped, within" in shown(store)


def test_only_the_last_trials_are_shown_with_their_own_numbers(new_store):
    ledger = Ledger(new_store)
    for index in range(20):
        ledger.add(record(f"key{index}", index / 100, feasible=True))
    numbers = [text.split()[0] for text in shown(new_store).splitlines() if " l2 " in text and "+0.0040" in text]
    assert numbers == [str(index) for index in range(9, 21)]


def test_nothing_is_wider_than_a_small_terminal(store):
    assert max(map(len, shown(store, width=80).splitlines())) <= 80
    assert "within" in shown(store, width=80)
    assert "outside" in shown(store, width=80)


@pytest.mark.parametrize(("higher", "bound"), [(True, "at least -3.03"), (False, "at most -2.97")])
def test_the_direction_of_the_metric(new_store, higher, bound):
    baseline = Baseline(-3.0, None, higher, Measurement(1, 1, 1, 1), "f", 0.1)
    new_store.write_settings(plan(baseline=baseline).to_dict())
    assert f"-3 uncompressed, {bound} to hold" in shown(new_store)


def test_the_display_keeps_its_last_picture_where_the_journal_cannot_be_read(store, monkeypatch):
    monkeypatch.setattr("autocompress.cli.live_display._SECONDS_BETWEEN", 0)
    display = Display(Reader(store), lambda: URL, lambda: False)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(display.render())
    store.journal.path.write_text("nonsense\n" * 3)
    time.sleep(0.01)
    console.print(display.render())
    assert console.export_text().count("best     l2 at rate 0.5") == 2


def test_plain_lines_tell_each_trial_once(new_store):
    output = io.StringIO()
    ledger, lines = Ledger(new_store), Lines(Reader(new_store), Console(file=output), lambda: URL)
    lines.print_new()
    ledger.add(record("key0", 0.5, feasible=True))
    lines.print_new()
    lines.print_new()
    ledger.add(TrialRecord(key="key1", algorithm="l2", state="failed", requested_rate=0.6, error="ValueError: [no]"))
    lines.print_new()
    assert output.getvalue().splitlines() == [
        f"web page: {URL}",
        "accuracy: 0.9 uncompressed, at least 0.891 to hold",
        "trial 1: l2 at rate 0.5: accuracy 0.895 (+0.004 to the threshold), 50.0% of the parameters removed, "
        "50.0% smaller, 3 epochs, 1.5 s: within",
        "trial 2: l2 at rate 0.6: failed: ValueError: [no]",
    ]


def test_plain_lines_leave_out_trials_of_before_a_resume(store):
    output = io.StringIO()
    lines = Lines(Reader(store), Console(file=output), lambda: URL)
    lines.print_new()
    Ledger(store).add(record("key2", 0.55, feasible=True))
    lines.print_new()
    assert [text.split(":")[0] for text in output.getvalue().splitlines()] == ["web page", "accuracy", "trial 3"]


def test_watching_without_a_terminal_prints_lines_to_the_end(store):
    output = io.StringIO()
    with watching(store, Console(file=output), lambda: URL, quiet=False):
        time.sleep(1.2)
        Ledger(store).add(record("key2", 0.55, feasible=True))
    assert output.getvalue().splitlines()[-1].startswith("trial 3: l2 at rate 0.55")
    assert "\x1b" not in output.getvalue()


def test_watching_quietly_prints_nothing(store):
    output = io.StringIO()
    with watching(store, Console(file=output, force_terminal=True), lambda: URL, quiet=True):
        pass
    assert output.getvalue() == ""


def test_watching_on_a_terminal(store):
    output = io.StringIO()
    with watching(store, Console(file=output, force_terminal=True, width=100), lambda: URL, quiet=False):
        assert PROGRESS_FILE in os.environ
        time.sleep(0.6)
        Ledger(store).add(record("key2", 0.55, feasible=True))
    assert "l2 at rate 0.55: epoch 2 of 3" in output.getvalue()
    last = [text for text in output.getvalue().splitlines() if "best     " in text][-1]
    assert "at rate 0.55" in last, "the last picture is that of the end"


def test_a_model_that_evaluates_differently_is_shown(store):
    Ledger(store).add_verdict("key0", Verdict(0.88, None, False))
    text = shown(store, width=200)
    assert "outside; evaluates differently when loaded afresh: 0.88 against 0.895" in text
    assert "warning  l2 at rate 0.5 evaluates differently when loaded afresh: 0.88 against 0.895" in text
    assert max(map(len, shown(store, width=80).splitlines())) <= 80
