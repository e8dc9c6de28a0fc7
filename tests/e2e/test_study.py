"""`CompressionStudy` with real Optuna storages, real trials in processes, real kills."""

import contextlib
import copy
import os
import shutil
import signal
import subprocess
import sys
import time

import optuna
import pytest
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autocompress import AccuracyBudget
from autocompress.errors import ConfigError, InfeasibleBudgetError, StoreError, TrialError
from tests import curve_modules
from tests.cli.support import invoke
from tests.e2e.launch import search_space
from tests.e2e.servers import grpc_proxy, mysql, postgresql
from tests.e2e.study import on_nni, study
from tests.e2e.support import ROOT, processes_of, results, skip, trained_epochs, until

pytestmark = pytest.mark.e2e


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    return tmp_path / "epochs.log"


class Process:
    """A worker in a process of its own."""

    def __init__(self, directory, module, storage, *names):
        self.output = directory.parent / "worker.log"
        command = [sys.executable, "-m", "tests.e2e.study", str(directory), module, storage, *names]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)

    def printed(self):
        return self.output.read_text(errors="replace")

    def wait(self, seconds=120):
        return self.process.wait(seconds)


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


@pytest.fixture(scope="module")
def found_by_nni(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nni")
    os.environ["EPOCHS_LOG"] = str(folder / "epochs.log")
    return on_nni(folder / "experiment", "CountsEpochs", "l2", "level")


def told(result):
    """All records without what a clock says."""
    plain = [copy.deepcopy(record.to_dict()) for record in result.records]
    return sorted(({**each, "seconds": 0} for each in plain), key=lambda each: (each["algorithm"], each["key"]))


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


def test_two_jobs_run_two_algorithms_side_by_side(tmp_path, found_by_nni):
    result = ENGINES["optuna, SQLite"](tmp_path / "one", "l2", "level")
    both = study(tmp_path / "two", "CountsEpochs", None, "l2", "level").optimize(n_jobs=2)
    assert told(both) == told(result)


def test_workers_of_one_database_share_the_work(tmp_path, epochs_log):
    names = ("l1", "l2", "fpgm", "level")
    alone = study(tmp_path / "alone", "CountsEpochs", None, *names).optimize()
    expected = trained_epochs(epochs_log)
    epochs_log.unlink()
    with postgresql() as server:
        _ = study(tmp_path / "one", "CountsEpochs", server.url, *names).study  # measured once
        workers = [Process(tmp_path / "one", "CountsEpochs", server.url, *names) for _ in range(4)]
        codes = [worker.wait() for worker in workers]
        assert codes == [0] * 4, workers[0].printed()
        together = study(tmp_path / "one", "CountsEpochs", server.url, *names)
        assert told(together.result) == told(alone)
        orders = [trial.user_attrs["autocompress:order"] for trial in together.study.trials]
    keys = [order["key"] for order in orders if order is not None]
    assert len(keys) == len(set(keys)) == len(alone.records)
    assert trained_epochs(epochs_log) == expected


def test_a_database_that_is_away_for_a_while_is_waited_for(tmp_path, epochs_log):
    undisturbed = study(tmp_path / "undisturbed", "CountsEpochs").optimize()
    expected = trained_epochs(epochs_log)
    epochs_log.unlink()
    directory = tmp_path / "experiment"
    with postgresql() as server:
        worker = Process(directory, "CountsEpochs", server.url)
        until(lambda: results(directory) if directory.exists() else None, worker)
        server.stop()
        time.sleep(5)
        assert worker.process.poll() is None, worker.printed()
        server.start()
        assert worker.wait() == 0, worker.printed()
        assert told(study(directory, "CountsEpochs", server.url).result) == told(undisturbed)
    assert trained_epochs(epochs_log) == expected


def test_a_worker_that_is_killed_is_replaced(tmp_path, epochs_log):
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    undisturbed = study(tmp_path / "undisturbed", "CountsEpochs").optimize()
    expected = trained_epochs(epochs_log)
    epochs_log.unlink()
    worker = Process(directory, "CountsEpochs", storage)
    until(lambda: results(directory) if directory.exists() else None, worker)
    by_worker = f"state    run by workers (process {worker.process.pid})"
    until(lambda: by_worker in invoke("status", directory).output or None, worker)  # not so between two trials
    worker.process.kill()  # the trial may go on without it, and its record counts
    worker.wait()
    assert "state    not running" in invoke("status", directory).output
    result = study(directory, "CountsEpochs", storage).optimize()
    assert told(result) == told(undisturbed)
    assert trained_epochs(epochs_log) == expected, "nothing is trained twice"


def test_workers_without_a_common_directory_share_artefacts(tmp_path, epochs_log):
    undisturbed = study(tmp_path / "undisturbed", "CountsEpochs").optimize()
    expected = trained_epochs(epochs_log)
    epochs_log.unlink()
    storage, address = f"sqlite:///{tmp_path}/study.db", f"file://{tmp_path}/shared"
    for machine in range(4):  # each runs one trial with nothing but the storage and the address
        one = study(tmp_path / f"machine{machine}", "CountsEpochs", storage, artefacts=address)
        result = one.optimize(n_trials=1)
    assert told(result) == told(undisturbed)
    assert trained_epochs(epochs_log) == expected
    assert result.load_model() is not None


def test_a_trial_that_cannot_begin_is_not_left_running(tmp_path):
    storage, shared = f"sqlite:///{tmp_path}/study.db", tmp_path / "shared"
    study(tmp_path / "machine0", "CountsEpochs", storage, artefacts=str(shared)).optimize(n_trials=1)
    shutil.rmtree(shared)
    other = study(tmp_path / "machine1", "CountsEpochs", storage, artefacts=str(shared))
    with pytest.raises(StoreError, match="must hold the checkpoint of trial"):
        other.optimize(n_trials=1)
    assert [trial.state for trial in other.study.trials] == [TrialState.COMPLETE, TrialState.FAIL]


def test_a_trial_that_is_killed_is_trained_again(tmp_path):
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    worker = Process(directory, "CountsEpochs", storage)
    trial = until(lambda: next(processes_of(directory, "-m autocompress.trial "), None), worker)
    trial.kill()
    assert worker.wait() == 0, worker.printed()
    records = results(directory)
    assert [(record.requested_rate, record.state) for record in records] == [
        (0.55, "lost"),
        (0.55, "completed"),
        (0.6, "completed"),
        (0.65, "completed"),
    ], worker.printed()
    assert records[0].error == "the trial's process was killed by SIGKILL (the machine may have been out of memory)"


def test_ctrl_c_ends_it_cleanly_and_it_goes_on(tmp_path, epochs_log):
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    undisturbed = study(tmp_path / "undisturbed", "CountsEpochs").optimize()
    worker = Process(directory, "CountsEpochs", storage)
    until(lambda: results(directory) if directory.exists() else None, worker)
    until(lambda: next(processes_of(directory, "-m autocompress.trial "), None), worker)
    worker.process.send_signal(signal.SIGINT)
    worker.wait(60)
    assert not list(processes_of(directory)), "nothing is left running"
    states = [trial.state for trial in optuna.load_study(study_name="CountsEpochs", storage=storage).trials]
    assert TrialState.RUNNING not in states
    assert told(study(directory, "CountsEpochs", storage).optimize()) == told(undisturbed)


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
