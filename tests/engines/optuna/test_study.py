"""`CompressionStudy` with real Optuna storages, real trials in processes, real kills."""

import contextlib
import shutil
import time

import optuna
import pytest
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autocompress import AccuracyBudget, AutoCompressionExperiment
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import ConfigError, InfeasibleBudgetError, StoreError, TrialError
from autocompress.settings import AccuracyAwareSettings
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.servers import grpc_proxy, mysql, postgresql
from tests.e2e.study import FEW, on_nni, study
from tests.e2e.support import results, skip, trained_epochs, until
from tests.engines.optuna.processes import Process, told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("epochs_log")]


def on_optuna(storage):
    def run(directory, *names):
        return study(directory, "CountsEpochs", storage(directory), *names).optimize()

    return run


def with_a_worker_for_each_trial(directory, *names):
    """Each worker runs one trial and is gone; the next one knows the storage only."""
    storage = f"sqlite:///{directory.parent}/one.db"
    while True:
        one = study(directory, "CountsEpochs", storage, *names)
        before = len(one.study.trials)
        result = one.optimize(n_trials=1)
        if len(one.study.trials) == before:
            return result


def on_server(serve):
    """With a storage that a server of its own holds."""

    def run(directory, *names):
        with serve(directory) as storage:
            return study(directory, "CountsEpochs", storage, *names).optimize()

    return run


@contextlib.contextmanager
def database(directory):
    with postgresql() as server:
        yield server.url


@contextlib.contextmanager
def mysql_database(directory):
    if not shutil.which("mariadbd"):
        skip("needs MariaDB")
    with mysql() as url:
        yield url


ENGINES = {
    "optuna, SQLite": on_optuna(lambda directory: None),
    "optuna, memory": on_optuna(lambda directory: InMemoryStorage()),
    "optuna, journal": on_optuna(lambda directory: f"journal:///{directory}.journal"),
    "optuna, PostgreSQL": on_server(database),
    "optuna, MySQL": on_server(mysql_database),
    "optuna, gRPC proxy": on_server(lambda directory: grpc_proxy(f"sqlite:///{directory}.db")),
    "optuna, a worker for each trial": with_a_worker_for_each_trial,
}
"""Name -> search of CountsEpochs with these algorithms in a directory; all must find what NNI's engine finds."""


@pytest.fixture
def found_by_nni(shared, monkeypatch, epochs_log):
    def search(folder):
        monkeypatch.setenv("EPOCHS_LOG", str(folder / "epochs.log"))
        on_nni(folder / "experiment", "CountsEpochs", "l2", "level")
        monkeypatch.setenv("EPOCHS_LOG", str(epochs_log))

    directory = shared("CountsEpochs on NNI, l2 and level", search) / "experiment"
    return AutoCompressionExperiment.open(directory).result


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_finds_the_same(engine, found_by_nni, tmp_path):
    result = ENGINES[engine](tmp_path / "experiment", "l2", "level")
    assert told(result) == told(found_by_nni)
    for name in ("l2", "level"):
        paths = [
            [record.requested_rate for record in each.records if record.algorithm == name]
            for each in (result, found_by_nni)
        ]
        assert paths[0] == paths[1]
    assert result.best.key == found_by_nni.best.key
    one, other = (each.load_model().state_dict() for each in (result, found_by_nni))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert result.verdict == found_by_nni.verdict
    assert result.summary().splitlines()[:-1] == found_by_nni.summary().splitlines()[:-1]


def test_trials_are_compared_sample_by_sample_alike_on_every_engine(tmp_path):
    results = [on_nni(tmp_path / "nni", "PerSample"), study(tmp_path / "optuna", "PerSample").optimize()]
    local = SearchRequest(
        ModuleReference.of(curve_modules.PerSample),
        search_space("l2"),
        tmp_path / "local",
        settings=AccuracyAwareSettings.from_dict(FEW),
    )
    search = engine_named("local").create(local)
    assert search.run()
    one, *others = (told(result) for result in (search.result, *results))
    assert [each == one for each in others] == [True, True]
    records = search.result.records
    errors = [record.accuracy_error for record in records]
    assert len(errors) > 2
    assert all(0 < error < 0.03 for error in errors)
    alone = search.result.baseline.accuracy_error
    assert search.result.best.accuracy_error < alone == pytest.approx(0.015, rel=0.1)
    assert "sample by sample" in search.result.summary()
    for place in ("nni", "optuna", "local"):
        assert (tmp_path / place / "uncompressed.json").exists()


def test_two_jobs_run_two_algorithms_side_by_side(tmp_path, found_by_nni):
    result = ENGINES["optuna, SQLite"](tmp_path / "one", "l2", "level")
    both = study(tmp_path / "two", "CountsEpochs", None, "l2", "level").optimize(n_jobs=2)
    assert told(both) == told(result)


def test_a_database_that_is_away_for_a_while_is_waited_for(tmp_path, epochs_log, undisturbed):
    records, expected = undisturbed
    directory = tmp_path / "experiment"
    with postgresql() as server:
        worker = Process(directory, "CountsEpochs", server.url)
        until(lambda: results(directory) if directory.exists() else None, worker)
        server.stop()
        time.sleep(5)
        assert worker.process.poll() is None, worker.printed()
        server.start()
        assert worker.wait() == 0, worker.printed()
        assert told(study(directory, "CountsEpochs", server.url).result) == records
    assert trained_epochs(epochs_log) == expected


def test_another_sampler_learns_from_trials_outside_the_budget(tmp_path):
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3)
    one = study(tmp_path / "experiment", "Cliff", sampler=sampler)
    with pytest.raises(ConfigError, match="TPESampler does not end by itself: n_trials must be given"):
        one.optimize()
    result = one.optimize(n_trials=6)
    trials = one.study.trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == 6
    outside = [trial for trial in trials if trial.user_attrs["autocompress:record"]["feasible"] is False]
    assert outside
    assert all(trial.value < 0 and trial.system_attrs["constraints"][0] > 0 for trial in outside)
    assert result.best.score == one.study.best_value
    assert {len(trial.params) for trial in trials} == {2}


def test_nothing_within_the_budget_is_told(tmp_path):
    with pytest.raises(InfeasibleBudgetError, match="tried l2 at"):
        study(tmp_path / "experiment", "Never").optimize()


def test_nothing_but_failures_end_it(tmp_path):
    with pytest.raises(TrialError, match="the trainer is broken"):
        study(tmp_path / "experiment", "RaisesAlways", initial_compression_rate=0.9).optimize()


def test_a_study_is_of_one_search(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    study(tmp_path / "experiment", "Flat", storage).optimize(n_trials=1)
    with pytest.raises(StoreError, match="must be of the same search; its settings is another one"):
        _ = study(tmp_path / "experiment", "Flat", storage, patience_epochs=7).study
    with pytest.raises(StoreError, match="its search_space is another one"):
        _ = study(tmp_path / "experiment", "Flat", storage, "l1").study


def test_the_budget_is_the_experiments(tmp_path):
    from autocompress.engines.optuna.study import CompressionStudy

    loose = CompressionStudy(
        curve_modules.Knee,
        search_space("l2"),
        AccuracyBudget(maximal_absolute_accuracy_degradation=0.2),
        directory=tmp_path / "experiment",
    )
    assert loose.result.threshold == pytest.approx(loose.result.baseline.accuracy - 0.2)
