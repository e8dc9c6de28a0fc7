"""One mistake through the door of every engine: the same sentence, before anything is trained."""

import json
import re

import pytest

from autocompress import AutoCompressionExperiment, CompressionStudy
from autocompress.compare.compare_tuners import compare_tuners
from autocompress.errors import ModuleError, StoreError
from autocompress.plan import ExperimentPlan
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests.cli.support import invoke
from tests.e2e.support import free_port
from tests.trial.preflight_modules import LossAsAccuracy, Right, loss

pytestmark = pytest.mark.e2e

SPACE = default_space(["l2"]).wire
MODULE = "tests/trial/preflight_modules.py:LossAsAccuracy"
SENTENCE = (
    r"LossAsAccuracy\.higher_is_better must be the direction of LossAsAccuracy\.evaluator\(\): the uncompressed model "
    r"gets 0\.0\d+ and one whose output layer is zeroed 1\.\d+, which counts as better: if lower is better set "
    r"higher_is_better = False"
)


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(json.dumps(SPACE))
    return path


def test_an_experiment(tmp_path):
    experiment = AutoCompressionExperiment(LossAsAccuracy, "local", directory=tmp_path / "out")
    experiment.config.search_space = SPACE
    experiment.config.trial_concurrency = 1
    with pytest.raises(ModuleError, match=SENTENCE):
        experiment.start(free_port())
    assert not (tmp_path / "out").exists()


def test_a_study(tmp_path):
    study = CompressionStudy(LossAsAccuracy, SPACE, directory=tmp_path / "out")
    with pytest.raises(ModuleError, match=SENTENCE):
        study.optimize()
    assert not (tmp_path / "out").exists()


def test_a_comparison(tmp_path):
    with pytest.raises(ModuleError, match=SENTENCE):
        compare_tuners(LossAsAccuracy, SPACE, "random", directory=tmp_path / "out", trials=1, seeds=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("engine", ["nni", "optuna"])
def test_the_command_run(engine, space, tmp_path):
    out = tmp_path / "runs" / "out"
    answer = invoke("run", MODULE, "--search-space", space, "--out", out, "--engine", engine)
    assert answer.exit_code == 2, answer.output
    assert not out.parent.exists(), "nothing is left, nor of what was made on the way there"
    assert re.search(f"^error: {SENTENCE}", answer.stderr, re.MULTILINE), answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_command_check(space):
    answer = invoke("check", MODULE, "--search-space", space)
    assert answer.exit_code == 2, answer.output
    assert re.search(f"^error: {SENTENCE}", answer.stderr, re.MULTILINE), answer.stderr


def test_check_tells_what_is_found_first(space):
    answer = invoke("check", MODULE.replace("LossAsAccuracy", "Right"), "--search-space", space)
    assert answer.exit_code == 0, answer.output
    evaluator, direction, step, search, heads = answer.stdout.splitlines()[:5]
    assert re.fullmatch(r"evaluator: [01]\.?\d*, the same \d+ times, [\d.e-]+ s", evaluator), evaluator
    assert re.fullmatch(r"direction: right \(0\.3\d* with the output layer zeroed\)", direction), direction
    assert re.fullmatch(r"training step: [\d.e-]+ s, loss [\d.]+", step), step
    assert re.fullmatch(r"search: at most \d+ trials, \d+ epochs; evaluations take .* s of it, .* s", search), search
    assert heads.split()[0] == "algorithm"


@pytest.mark.parametrize("drop", ["0.01", "60"])
@pytest.mark.parametrize("command", ["run", "check", "compare"])
def test_a_budget_that_is_hardly_meant_is_to_be_confirmed(command, drop, space, tmp_path):
    options = [] if command == "check" else ["--out", tmp_path / "out"]
    answer = invoke(command, MODULE, "--search-space", space, "--max-relative-drop", drop, *options)
    assert answer.exit_code == 2, answer.output
    assert f"a loss of {drop} % of the uncompressed accuracy" in answer.stderr, answer.stderr
    assert "is it meant? " in answer.stderr
    assert "--yes" in answer.stderr
    assert not (tmp_path / "out").exists()


def test_an_absolute_budget_is_judged_when_the_accuracy_is_known(space, tmp_path):
    module = MODULE.replace("LossAsAccuracy", "Right")
    options = [
        "--search-space",
        space,
        "--max-absolute-drop",
        "0.0001",
        "--out",
        tmp_path / "out",
        "--engine",
        "optuna",
    ]
    answer = invoke("run", module, *options)
    assert answer.exit_code == 2, answer.output
    assert "next to nothing may be lost; is it meant?" in answer.stderr, answer.stderr


def test_everything_may_not_be_lost_even_if_it_is_meant(space, tmp_path):
    module = MODULE.replace("LossAsAccuracy", "Right")
    options = ["--search-space", space, "--max-relative-drop", "101", "--yes", "--out", tmp_path / "out"]
    answer = invoke("run", module, *options)
    assert answer.exit_code == 2, answer.output
    assert "must be below 100 where a higher accuracy is better; got 101" in answer.stderr, answer.stderr


def test_a_few_trials_are_announced_as_so_many(space, tmp_path):
    """Of the rule, which takes more where it is let."""
    module = MODULE.replace("LossAsAccuracy", "Right")
    options = ["--search-space", space, "--out", tmp_path / "out", "--engine", "optuna", "--trials", "1"]
    answer = invoke("run", module, *options)
    assert answer.exit_code in (0, 3), answer.output
    assert re.search(r"search: at most .*1 trial\b", answer.output), answer.output


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for make in (
        lambda: CompressionStudy(Right, SPACE, directory=tmp_path / "file" / "out").study,
        lambda: invoked_start(tmp_path / "file" / "out"),
    ):
        with pytest.raises(Exception, match=r"the output directory .* cannot be made: .* \(name another one\)"):
            make()


def invoked_start(directory):
    experiment = AutoCompressionExperiment(Right, "local", directory=directory)
    experiment.config.search_space = SPACE
    experiment.config.trial_concurrency = 1
    experiment.start(free_port())


# A refusal may be wrong: each engine has a way past it


def without():
    return AccuracyAwareSettings(preflight=False, initial_training_phase_epochs=0, patience_epochs=1)


def test_an_experiment_without_it(tmp_path):
    experiment = AutoCompressionExperiment(LossAsAccuracy, "local", directory=tmp_path / "out")
    experiment.config.search_space = SPACE
    experiment.config.trial_concurrency = 1
    experiment.settings = without()
    experiment.start(free_port())
    experiment.stop()
    measured = baseline_in(tmp_path / "out")
    assert measured.preflight is None
    assert measured.accuracy == loss(LossAsAccuracy.model())


def test_a_study_without_it(tmp_path):
    study = CompressionStudy(LossAsAccuracy, SPACE, settings=without(), directory=tmp_path / "out")
    assert not study.study.trials
    assert baseline_in(tmp_path / "out").preflight is None
    with_it = without().with_changes({"preflight": True})
    again = CompressionStudy(LossAsAccuracy, SPACE, settings=with_it, directory=tmp_path / "out")
    assert again.study.study_name == study.study_name, "it is the same search"
    other = CompressionStudy(
        LossAsAccuracy, SPACE, settings=with_it.with_changes({"seed": 1}), directory=tmp_path / "out"
    )
    with pytest.raises(StoreError, match="its settings is another one"):
        _ = other.study


def test_a_comparison_without_it(space, tmp_path):
    options = [
        "--search-space",
        space,
        "--tuners",
        "random",
        "--trials",
        "1",
        "--seeds",
        "1",
        "--out",
        tmp_path / "out",
    ]
    answer = invoke("compare", MODULE, *options, "--no-preflight")
    assert answer.exit_code == 0, answer.output
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert plan["baseline"]["preflight"] is None
    assert invoke("compare", MODULE, *options).exit_code == 0, "it is the same comparison, and goes on"


def test_the_command_run_without_it(space, tmp_path):
    options = ["--engine", "optuna", "--tuner", "RandomSampler", "--trials", "1", "--no-preflight"]
    answer = invoke("run", MODULE, "--search-space", space, "--out", tmp_path / "out", *options)
    assert answer.exit_code in (0, 3), answer.output
    assert baseline_in(tmp_path / "out").preflight is None


def baseline_in(directory):
    return ExperimentPlan.read(ExperimentDirectory(directory)).measured
