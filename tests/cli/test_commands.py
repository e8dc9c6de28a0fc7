import json
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from autocompress.cli.app import app
from autocompress.cli.display import picture
from autocompress.cli.snapshot import take
from autocompress.compress.loading import ModuleReference
from autocompress.config import AccuracyAwareSettings, load_search_space
from autocompress.engines.plan import ExperimentPlan
from autocompress.records import Baseline, Measurement, TrialRecord
from autocompress.store import ExperimentDirectory, Ledger, OpenTrial, Verdict
from tests import curve_modules
from tests.e2e.launch import search_space

SPACE = load_search_space(search_space("l2"))


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def store(tmp_path):
    """An experiment of which two trials have ended, the better one feasible, and a third runs."""
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    plan = ExperimentPlan(
        module=ModuleReference.of(curve_modules.Cliff).to_dict(),
        search_space=SPACE.wire,
        settings=AccuracyAwareSettings(),
        objective="rate",
        tuner="AdaptiveCompression",
        baseline=Baseline(0.9, 0.88, True, Measurement(1000, 1000, 800, 5000), "f", 0.1),
    )
    directory.write_settings(plan.to_dict())
    ledger = Ledger(directory)
    for _ in range(3):
        proposal = plan.searches[0].next(ledger.records)
        parameters = plan.trial_parameters(proposal)
        key = f"key{len(ledger.records)}"
        ledger.propose(OpenTrial(key, parameters, proposal))
        if len(ledger.records) < 2:
            ledger.add(record(key, proposal.compression_rate, feasible=proposal.compression_rate < 0.6))
    directory.trial("key2").append_epoch({"epoch": 2, "accuracy": 0.85})
    return directory


def record(key, rate, *, feasible):
    return TrialRecord(
        key=key,
        algorithm="l2",
        state="completed",
        requested_rate=rate,
        accuracy=0.895 if feasible else 0.5,
        accuracy_budget=0.004 if feasible else -0.391,
        feasible=feasible,
        score=rate if feasible else -0.4,
        compression_rate=rate,
        parameters_removed=rate,
        macs_removed=rate,
        size_removed=rate,
        bytes=2500,
        epochs=3,
        seconds=1.5,
        checkpoint=f"trials/{key}/checkpoint",
    )


def shown(store, seconds=12.0, url=None):
    console = Console(record=True, width=120, force_terminal=False)
    console.print(picture(take(store), url, seconds))
    return console.export_text()


def test_status(store):
    answer = invoke("status", store.path)
    assert answer.exit_code == 0, answer.output
    assert "0.9 uncompressed, 0.891 to hold" in answer.output
    assert "2 trials, 6 epochs" in answer.output
    assert "l2 at rate 0.55: epoch 2 of 3, accuracy 0.85 against 0.891" in answer.output
    assert "best     l2 at rate 0.5, 50.0% of the parameters removed" in answer.output


def test_trials(store):
    answer = invoke("trials", store.path)
    assert answer.exit_code == 0
    first, second = answer.output.splitlines()[1:3]
    assert first.split()[:7] == ["1", "l2", "0.5", "0.5", "50.0%", "0.895", "0.004"], first
    assert first.rstrip().endswith("within")
    assert second.rstrip().endswith("outside"), second


def test_trials_as_json(store):
    answer = invoke("trials", store.path, "--json")
    assert [TrialRecord.from_dict(entry) for entry in json.loads(answer.output)] == Ledger(store).records


def test_best(store):
    assert "l2 at rate 0.5: 50.0% of the parameters" in invoke("best", store.path).output
    Ledger(store).add_verdict("key0", Verdict(0.8951, 0.87, True))
    answer = invoke("best", store.path)
    assert "verified    0.8951 when loaded afresh" in answer.output
    assert "hold-out    0.87 (uncompressed 0.88)" in answer.output
    known = json.loads(invoke("best", store.path, "--json").output)
    assert (known["key"], known["verified_accuracy"], known["holdout_accuracy"]) == ("key0", 0.8951, 0.87)
    assert known["checkpoint"] == str(store.trial("key0").checkpoint)


def test_best_of_nothing_feasible(store):
    Ledger(store).add_verdict("key0", Verdict(0.5, None, False))
    answer = invoke("best", store.path)
    assert answer.exit_code == 3
    assert "no compressed model stayed within the accuracy budget: the threshold is 0.891" in answer.stderr


@pytest.mark.parametrize("command", ["status", "trials", "best", "resume"])
def test_a_directory_without_an_experiment(tmp_path, command):
    answer = invoke(command, tmp_path)
    assert answer.exit_code == 2
    assert "holds no experiment" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-relative-drop", "1", "--max-absolute-drop", "0.1"], "must not both be given; got 1 and 0.1"),
        (["--max-relative-drop", "-1"], "must be a finite number >= 0; got -1.0"),
        (["--tuner", "TPEE"], "unknown tuner 'TPEE'; did you mean 'TPE'"),
        (["--tuner", "TPE"], "config.max_trial_number"),
        (["--objective", "speed"], "unknown objective 'speed'"),
    ],
)
def test_bad_input_of_run(tmp_path, arguments, message):
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE.wire))
    answer = invoke(
        "run", "tests/curve_modules.py:Cliff", "--search-space", space, "--out", tmp_path / "out", *arguments
    )
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr, answer.stderr
    assert not (tmp_path / "out" / "experiment.json").exists()


def test_bad_files_of_run(tmp_path):
    missing = invoke("run", "tests/nowhere.py:Cliff", "--search-space", tmp_path / "space.json")
    assert (missing.exit_code, "tests/nowhere.py" in missing.stderr) == (2, True), missing.stderr
    space = invoke(
        "run", "tests/curve_modules.py:Cliff", "--search-space", tmp_path / "space.json", "--out", tmp_path / "o"
    )
    assert (space.exit_code, "space.json" in space.stderr) == (2, True), space.stderr


def test_the_display_from_start_to_end(store, tmp_path):
    assert "measuring the uncompressed model" in shown(ExperimentDirectory(tmp_path / "nothing"))
    text = shown(store, url="http://127.0.0.1:8080/secret/oview")
    assert "page     http://127.0.0.1:8080/secret/oview" in text
    assert "12 s" in text
    Ledger(store).add(record("key2", 0.55, feasible=True))
    assert "best     l2 at rate 0.55" in shown(store)


def test_a_failed_trial_is_shown_with_its_reason(store):
    failed = TrialRecord(key="key2", algorithm="l2", state="failed", requested_rate=0.55, error="ValueError: no")
    Ledger(store).add(failed)
    assert "failed: ValueError: no" in shown(store)


def test_version():
    assert invoke("--version").output.strip()


def test_looking_needs_neither_torch_nor_nni(store):
    code = (
        "import sys\n"
        "from autocompress.cli.app import app\n"
        "for command in ('status', 'trials', 'best'):\n"
        "    app([command, sys.argv[1]], standalone_mode=False)\n"
        "loaded = {'torch', 'nni', 'optuna'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
