"""`status`, `trials` and `best` on experiments written by hand."""

import json
import subprocess
import sys

import pytest

from autocompress.cli.snapshot import holder
from autocompress.records import TrialRecord
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger, Verdict
from tests.cli.support import invoke
from tests.written import finish, plan, propose, record

HOLD = """
import sys
from autocompress.store import ExperimentDirectory
with ExperimentDirectory(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Hold an experiment as a launcher in another process does."""
    holders = []

    def start(directory):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        holders.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in holders:
        process.communicate()


def test_status_of_a_search_that_was_stopped(store):
    answer = invoke("status", store.path)
    assert answer.exit_code == 0, answer.output
    lines = answer.output.splitlines()
    assert lines == [
        f"state    not running; go on with: autocompress resume {store.path}",
        "accuracy 0.9 uncompressed, at least 0.891 to hold",
        "search   Cliff: 2 trials, 6 epochs, 3 s",
        "trial    l2 at rate 0.55: epoch 2 of 3, accuracy 0.85 against 0.891",
        "best     l2 at rate 0.5, 50.0% of the parameters removed, 50.0% smaller, accuracy 0.895",
    ]


def test_status_says_which_process_runs_it(store, hold):
    process = hold(store.path)
    assert f"state    running (process {process.pid})" in invoke("status", store.path).output
    assert "not running" not in invoke("status", store.path).output


def test_looking_does_not_keep_anyone_from_running_it(store, hold):
    process = hold(store.path)
    assert holder(store) == process.pid
    process.communicate()
    assert holder(store) is None
    with store.locked():
        pass


def test_a_lock_that_names_a_living_process_which_does_not_hold_it(store, hold):
    hold(store.path).communicate()
    (store.path / ".lock").write_text("1")
    assert holder(store) is None


def test_status_while_the_baseline_is_measured(tmp_path, hold):
    process = hold(tmp_path)
    answer = invoke("status", tmp_path)
    assert answer.exit_code == 0, answer.output
    assert answer.output == f"state    running (process {process.pid}), measuring the uncompressed model\n"


def test_status_of_an_algorithm_that_only_the_module_s_file_registers(tmp_path):
    """The file is not run to look: what comes next is not known, all else is."""
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    directory.write_settings(json.loads(json.dumps(plan().to_dict()).replace('"_name": "l2"', '"_name": "spread"')))
    answer = invoke("status", directory.path)
    assert answer.exit_code == 0, answer.output
    assert "state    not running" in answer.output
    assert "accuracy 0.9 uncompressed" in answer.output


def test_status_tells_the_next_step(new_store):
    assert "next     l2 at rate 0.5, up to 5 epochs" in invoke("status", new_store.path).output
    ledger = Ledger(new_store)
    key, rate = propose(ledger)
    ledger.add(record(key, rate, feasible=True))
    assert "next     l2 at rate 0.6, up to 3 epochs" in invoke("status", new_store.path).output


def test_status_after_the_end(new_store):
    ledger = Ledger(new_store)
    finish(ledger)
    assert "go on with: autocompress resume" in invoke("status", new_store.path).output, "it is not verified yet"
    best = max(entry.requested_rate for entry in ledger.records if entry.feasible)
    key = next(entry.key for entry in ledger.records if entry.requested_rate == best)
    ledger.add_verdict(key, Verdict(0.8951, None, True))
    output = invoke("status", new_store.path).output
    assert "state    ended" in output
    assert "verified 0.8951 when loaded afresh" in output
    assert "next" not in output


def test_status_of_a_search_that_found_nothing(new_store):
    finish(Ledger(new_store), edge=-1)
    output = invoke("status", new_store.path).output
    assert "state    ended" in output
    assert "best     nothing within the budget" in output


def test_status_does_not_praise_a_model_that_failed_when_loaded_afresh(store):
    Ledger(store).add_verdict("key0", Verdict(0.5, None, False))
    assert "nothing yet" in invoke("status", store.path).output


def test_trials(store):
    answer = invoke("trials", store.path)
    assert answer.exit_code == 0
    first, second = answer.output.splitlines()[1:3]
    assert first.split() == ["1", "l2", "0.5000", "0.5000", "50.0%", "50.0%", "0.8950", "+0.0040", "3", "1.5", "within"]
    assert second.split() == [
        "2",
        "l2",
        "0.6000",
        "0.6000",
        "60.0%",
        "60.0%",
        "0.5000",
        "-0.3910",
        "3",
        "1.5",
        "outside",
    ]


def test_no_trials(new_store):
    assert invoke("trials", new_store.path).output == "no trial has ended yet\n"


def test_the_whole_reason_of_a_failed_trial_is_shown(store):
    reason = "ValueError: " + "a long reason " * 20 + "at its end"
    Ledger(store).add(TrialRecord(key="key2", algorithm="l2", state="failed", requested_rate=0.55, error=reason))
    assert f"failed: {reason}" in invoke("trials", store.path).output


def test_trials_as_json(store):
    answer = invoke("trials", store.path, "--json")
    assert [TrialRecord.from_dict(entry) for entry in json.loads(answer.output)] == Ledger(store).records


def test_best(store):
    output = invoke("best", store.path).output
    assert "l2 at rate 0.5: 50.0% of the parameters" in output
    loaded = f'autocompress.load_compressed("{store.trial("key0").checkpoint}", trust_module=True)'
    line = f"import autocompress; model = {loaded}  # runs {store.settings()['module']['file']}"
    assert f"load it     {line}\n" in output
    Ledger(store).add_verdict("key0", Verdict(0.8951, 0.87, True))
    answer = invoke("best", store.path)
    assert "verified    0.8951 when loaded afresh" in answer.output
    assert "hold-out    0.87 (uncompressed 0.88)" in answer.output


def test_best_as_json(store):
    Ledger(store).add_verdict("key0", Verdict(0.8951, 0.87, True))
    known = json.loads(invoke("best", store.path, "--json").output)
    assert (known["key"], known["verified_accuracy"], known["holdout_accuracy"]) == ("key0", 0.8951, 0.87)
    assert known["checkpoint"] == str(store.trial("key0").checkpoint)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_best_of_nothing_feasible(store, options):
    Ledger(store).add_verdict("key0", Verdict(0.5, None, False))
    answer = invoke("best", store.path, *options)
    assert answer.exit_code == 3
    assert answer.stdout == ""
    assert "no compressed model stayed within the accuracy budget: the threshold is 0.891" in answer.stderr
    assert "tried l2 at 0.5, l2 at 0.6" in answer.stderr


@pytest.mark.parametrize("command", ["status", "trials", "best", "resume"])
def test_a_directory_without_an_experiment(tmp_path, command):
    answer = invoke(command, tmp_path)
    assert answer.exit_code == 2
    assert "holds no experiment" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["status", "trials", "best", "resume"])
def test_a_damaged_journal(store, command):
    store.journal.path.write_text("nonsense\n" + store.journal.path.read_text())
    answer = invoke(command, store.path)
    assert answer.exit_code == 2
    assert "is damaged at line 1" in answer.stderr


def test_looking_needs_neither_torch_nor_nni(store):
    code = (
        "import sys\n"
        "from autocompress.cli.__main__ import app\n"
        "for command in ('status', 'trials', 'best'):\n"
        "    app([command, sys.argv[1]], standalone_mode=False)\n"
        "loaded = {'torch', 'nni', 'optuna'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_experiment_need_not_be_named_absolutely(store, monkeypatch):
    monkeypatch.chdir(store.path.parent)
    assert invoke("best", store.path.name).exit_code == 0
    assert ExperimentDirectory(store.path.name).exists()


DIFFERS = "the evaluator is not deterministic or leaves the model in training mode"


@pytest.mark.parametrize(("fresh", "feasible"), [(0.893, True), (0.88, False)])
def test_a_model_that_evaluates_differently_is_told_of_everywhere(store, fresh, feasible):
    Ledger(store).add_verdict("key0", Verdict(fresh, None, feasible))
    told = f"evaluates differently when loaded afresh: {fresh} against 0.895; {DIFFERS}"
    assert f"warning  l2 at rate 0.5 {told}\n" in invoke("status", store.path).output
    row = invoke("trials", store.path).output.splitlines()[1]
    assert row.endswith(f"{'within' if feasible else 'outside'}; {told}"), row
    best = invoke("best", store.path)
    assert best.exit_code == (0 if feasible else 3)
    if feasible:
        assert f"warning     l2 at rate 0.5 {told}\n" in best.stdout
    else:
        assert f"l2 at 0.5 {told}; tried l2 at 0.5, l2 at 0.6" in best.stderr


def test_json_has_both_numbers(store):
    Ledger(store).add_verdict("key0", Verdict(0.893, 0.87, True))
    first, second = json.loads(invoke("trials", store.path, "--json").output)
    assert (first["accuracy"], first["verified_accuracy"], first["holdout_accuracy"]) == (0.895, 0.893, 0.87)
    assert "verified_accuracy" not in second, "it has not been loaded afresh"
    best = json.loads(invoke("best", store.path, "--json").output)
    assert (best["accuracy"], best["verified_accuracy"]) == (0.895, 0.893)
    assert len(best["disagreements"]) == 1


def test_nothing_is_said_of_rounding(store):
    Ledger(store).add_verdict("key0", Verdict(0.895 * (1 - 2e-7), None, True))
    for command in ("status", "trials", "best"):
        assert "differently" not in invoke(command, store.path).output


def test_status_of_a_finished_search_whose_page_is_kept(store, hold):
    ledger = Ledger(store)
    for key in list(ledger.open):
        ledger.close(key)
    finish(ledger)
    ledger.add_verdict(CompressionResult(store).best.key, Verdict(0.895, None, True))
    process = hold(store.path)
    state = invoke("status", store.path).output.splitlines()[0]
    assert state == f"state    ended; process {process.pid} still shows its page"
