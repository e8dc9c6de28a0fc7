"""The main job on a real NNI experiment."""

import pytest
import requests
import torch

from autocompress import AccuracyBudget, AutoCompressionExperiment, load_compressed
from autocompress.errors import InfeasibleBudgetError, TrialError
from tests import curve_modules as modules
from tests.e2e.launch import search_space
from tests.e2e.support import Launcher, free_port, manager_of, trial_of, until

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path):
    started = []

    def _run(module, space, *, tuner=None, trials=None, concurrency=1, budget=None, **settings):
        experiment = AutoCompressionExperiment(module, "local", directory=tmp_path / f"experiment{len(started)}")
        started.append(experiment)
        experiment.config.search_space = space
        experiment.config.trial_concurrency = concurrency
        experiment.config.max_trial_number = trials
        if tuner:
            experiment.config.tuner.name = tuner
        experiment.config.tuner.class_args = settings
        if budget:
            experiment.budget = budget
        experiment.run(free_port())
        return experiment

    _run.started = started
    yield _run
    for experiment in started:
        experiment.stop()


def path_of(experiment):
    return [
        (record.algorithm, record.requested_rate, record.feasible, record.key) for record in experiment.result.records
    ]


def test_two_algorithms_side_by_side_give_the_sequential_answers(run):
    few = {
        "initial_compression_rate_step": 0.05,
        "minimal_compression_rate_step": 0.05,
        "initial_compression_rate": 0.55,
    }
    both = run(modules.Cliff, search_space("l2", "level"), concurrency=3, **few)
    assert both.get_status() == "DONE"
    assert both.result.best.algorithm == "l2", "by size: level does not make the file smaller"
    alone = run(modules.Cliff, search_space("l2", "level"), concurrency=1, **few)
    assert {record.state for record in both.result.records} == {"completed"}, "each trial ran with its own parameters"
    assert sorted(path_of(both)) == sorted(path_of(alone))
    assert both.result.best.key == alone.result.best.key
    trials = both.get_job_statistics()
    shown = 1 + len(path_of(both))  # the first one shows the uncompressed model
    assert trials == [{"trialJobStatus": "SUCCEEDED", "trialJobNumber": shown}]


@pytest.mark.parametrize("tuner", ["TPE", "Random", "Evolution"])
def test_builtin_tuners_are_given_the_score(run, tuner):
    experiment = run(modules.Cliff, search_space("l1"), tuner=tuner, trials=4, concurrency=2)
    records = experiment.result.records
    assert len(records) == 4, records
    assert all(record.state == "completed" and record.start_from is None for record in records)
    metrics = experiment.get_job_metrics()
    finals = sorted(entry.data["default"] for job in metrics.values() for entry in job if entry.type == "FINAL")
    uncompressed = 0.0
    assert finals == pytest.approx(sorted([uncompressed, *(record.score for record in records)]))
    best = experiment.result.best
    assert best.score == max(record.score for record in records) > 0


def test_a_builtin_tuner_that_runs_out_of_options_ends_the_experiment(run):
    sparsity = {"_type": "choice", "_value": [0.2, 0.4]}
    space = {
        "algorithm_name": {"_type": "choice", "_value": [{"_name": "l1", "config_list::::hidden::sparsity": sparsity}]}
    }
    experiment = run(modules.Cliff, space, tuner="GridSearch", trials=50)
    assert sorted(record.requested_rate for record in experiment.result.records) == [0.2, 0.4]
    assert experiment.get_status() == "DONE"


def test_nothing_feasible_is_told_with_what_was_tried(run):
    with pytest.raises(InfeasibleBudgetError) as caught:
        run(modules.Never, search_space("l2"), initial_compression_rate=0.1, budget=AccuracyBudget(None, 0.05))
    assert caught.value.threshold == pytest.approx(0.85)
    assert caught.value.best_accuracy == pytest.approx(0.1)
    assert [trial.requested_rate for trial in caught.value.trials] == [0.1, 0.05, 0.025], "0 takes none"
    (experiment,) = run.started
    assert len(experiment.result.records) == 3


def test_a_broken_trainer_reaches_the_user_with_its_cause(run):
    with pytest.raises(
        TrialError, match="all of the first 3 trials failed, the last one with RuntimeError: the trainer is broken"
    ) as caught:
        run(modules.RaisesAlways, search_space("l2"), initial_compression_rate=0.9)
    assert 'raise RuntimeError("the trainer is broken")' in caught.value.traceback
    (experiment,) = run.started
    assert experiment.url is None, "the experiment must be stopped"


def test_one_failed_rate_does_not_end_the_search(run):
    experiment = run(modules.NanAbove, search_space("l2"), initial_compression_rate=0.7)
    failed = [record for record in experiment.result.records if record.state == "failed"]
    assert {record.requested_rate for record in failed} == {0.8, 0.775}
    assert all("of one for each sample; got nan" in record.error for record in failed)
    assert experiment.result.best.requested_rate == 0.75
    assert "failed      2 of them" in experiment.result.summary()


def test_the_result_is_a_model(run):
    experiment = run(modules.Cliff, search_space("l2"), initial_compression_rate=0.6)
    result = experiment.result
    assert result.best.requested_rate == 0.6
    assert result.verdict.feasible
    assert result.verdict.accuracy == result.best.accuracy
    model = result.load_model()
    assert model.hidden.out_features == 160
    again = load_compressed(result.checkpoint)
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert f"127.0.0.1:{experiment.port}/{experiment.url_prefix}/" in experiment.url


def test_an_exception_in_the_tuner_ends_the_experiment_and_reaches_the_user(tmp_path):
    """The tuner cannot write its journal any more: somebody has put a directory in its place."""
    directory = tmp_path / "experiment"
    launcher = Launcher(directory, "Slow")
    try:
        journal = directory / "journal.jsonl"
        until(lambda: journal.exists() and trial_of(directory), launcher)
        journal.rename(tmp_path / "journal.jsonl")
        journal.mkdir()
        assert launcher.wait(60) == 1, launcher.printed()
        assert f"StoreError: the journal {journal} cannot be written" in launcher.printed(), launcher.printed()
        assert manager_of(directory) is None
        journal.rmdir()
        (tmp_path / "journal.jsonl").rename(journal)
        launcher = Launcher(directory, action="resume")
        assert launcher.wait() == 0, launcher.printed()
    finally:
        launcher.kill()


def test_stop_resume_by_id_and_view(run, tmp_path):
    first = run(modules.Flat, search_space("l2"), initial_compression_rate=0.9)
    first.stop()
    assert first.url is None
    again = AutoCompressionExperiment.open(first.directory)
    assert again.id == first.id
    assert again.resume(free_port())
    assert path_of(again) == path_of(first)
    again.stop()
    again.view(free_port(), non_blocking=True)
    try:
        assert again.get_status() == "VIEWED"
        assert len(requests.get(again.url.replace("oview", "api/v1/nni/trial-jobs"), timeout=10).json()) == 1 + 2
    finally:
        again.stop()
