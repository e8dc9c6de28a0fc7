"""Workers of one study: they share the work, and what a killed one left is done again."""

import shutil
import signal

import optuna
import pytest
from optuna.trial import TrialState

from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory
from tests.cli.support import invoke
from tests.e2e.servers import postgresql
from tests.e2e.study import study
from tests.e2e.support import processes_of, results, trained_epochs, until
from tests.engines.optuna.processes import Process, told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("epochs_log")]


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


def test_a_worker_that_is_killed_is_replaced(tmp_path, epochs_log, undisturbed):
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    records, expected = undisturbed
    worker = Process(directory, "CountsEpochs", storage)
    until(lambda: results(directory) if directory.exists() else None, worker)
    by_worker = f"state    run by workers (process {worker.process.pid})"
    until(lambda: by_worker in invoke("status", directory).output or None, worker)  # not so between two trials
    worker.process.kill()  # the trial may go on without it, and its record counts
    worker.wait()
    assert "state    not running" in invoke("status", directory).output
    result = study(directory, "CountsEpochs", storage).optimize()
    assert told(result) == records
    assert trained_epochs(epochs_log) == expected, "nothing is trained twice"


def test_a_trial_that_hangs_while_its_launcher_is_killed_is_ended(tmp_path, undisturbed, monkeypatch, caplog):
    for name, seconds in (("_IDLE_SECONDS", 2.0), ("_SAVING_SECONDS", 0.5)):
        monkeypatch.setattr(f"autocompress.trial.child.{name}", seconds)
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    worker = Process(directory, "CountsEpochs", storage)
    trial = until(lambda: next(processes_of(directory, "-m autocompress.trial "), None), worker)
    until(lambda: any(each.holder() for each in trials_of(directory)), worker)  # it has begun
    trial.suspend()
    worker.process.kill()
    worker.wait()
    assert told(study(directory, "CountsEpochs", storage).optimize()) == undisturbed[0]
    said = [message for message in caplog.messages if f"process {trial.pid}" in message]
    assert f"whose launcher (process {worker.process.pid}) is dead" in said[0]
    assert said[1].startswith(f"process {trial.pid} hangs: it is ended")
    assert not trial.is_running()


def trials_of(directory):
    store = ExperimentDirectory(directory)
    return [store.trial(path.name) for path in (store.path / "trials").glob("*")]


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


def test_ctrl_c_ends_it_cleanly_and_it_goes_on(tmp_path, epochs_log, undisturbed):
    directory, storage = tmp_path / "experiment", f"sqlite:///{tmp_path}/study.db"
    records, _ = undisturbed
    worker = Process(directory, "CountsEpochs", storage)
    until(lambda: results(directory) if directory.exists() else None, worker)
    until(lambda: next(processes_of(directory, "-m autocompress.trial "), None), worker)
    worker.process.send_signal(signal.SIGINT)
    worker.wait(60)
    assert not list(processes_of(directory)), "nothing is left running"
    states = [trial.state for trial in optuna.load_study(study_name="CountsEpochs", storage=storage).trials]
    assert TrialState.RUNNING not in states
    assert told(study(directory, "CountsEpochs", storage).optimize()) == records
