"""Trials that are forked: as good as fresh interpreters, and soon there."""

import contextlib
import json
import os
import signal

import psutil
import pytest

from autocompress.trial.forkserver import ForkServer
from autocompress.trial.process import ProcessEnd, TrialProcess, fresh_interpreter
from autocompress.trial.spec import trial_key
from tests import curve_modules
from tests.trial.processes import THRESHOLD, begun, linux, order


def record_of(directory, module, start, rate=0.5):
    store, fingerprint = begun(directory, module)
    key = trial_key(fingerprint, order(rate), THRESHOLD)
    process = TrialProcess(store, key, order(rate), start)
    results = list(process.results())
    assert process.wait() == ProcessEnd()
    return {**store.trial(key).record().to_dict(), "seconds": 0}, results, (store.trial(key).checkpoint / "weights.pt")


@pytest.mark.slow
def test_a_forked_trial_is_what_a_fresh_interpreters_is(tmp_path):
    with ForkServer() as server:
        forked = record_of(tmp_path / "forked", curve_modules.Never, server)
    fresh = record_of(tmp_path / "fresh", curve_modules.Never, fresh_interpreter)
    assert forked[:2] == fresh[:2]
    assert forked[2].read_bytes() == fresh[2].read_bytes()


@pytest.mark.slow
@linux
def test_a_trial_is_told_by_its_command_and_its_death_by_the_signal(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    parameters = order(0.9, epochs=200)
    with ForkServer() as server:
        process = TrialProcess(store, trial_key(fingerprint, parameters, THRESHOLD), parameters, server)
        next(iter(process.results()))
        command = " ".join(psutil.Process(process._process.pid).cmdline())
        assert f"-m autocompress.trial {store.path}" in command
        process.kill()
        assert process.wait().killed.startswith("the trial's process was killed by SIGKILL")


@linux
def test_a_trial_goes_on_when_who_started_it_is_killed(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    parameters = order(0.9, epochs=3)
    key = trial_key(fingerprint, parameters, THRESHOLD)
    pid = os.fork()
    if pid == 0:
        server = ForkServer()
        results = TrialProcess(store, key, parameters, server).results()
        (tmp_path / "first.json").write_text(json.dumps(next(results)))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with store.trial(key).locked():  # until it lets go
        assert store.trial(key).record().epochs == 3


def test_results_come_as_they_are_made_and_the_record_is_there(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Never)
    parameters = order(0.5)
    key = trial_key(fingerprint, parameters, THRESHOLD)
    process = TrialProcess(store, key, parameters)
    results = list(process.results())
    assert process.wait() == ProcessEnd()
    assert [result["epoch"] for result in results] == [1, 2, 3]
    assert store.trial(key).record().requested_rate == 0.5
    assert (store.trial(key).path / "output.txt").exists()


@pytest.mark.slow
def test_the_key_is_of_the_source_that_the_experiment_began_with(tmp_path):
    store, _ = begun(tmp_path / "experiment", curve_modules.Flat, fingerprint="of an earlier text")
    key = trial_key("of an earlier text", order(0.5), THRESHOLD)
    process = TrialProcess(store, key, order(0.5))
    assert list(process.results())
    assert process.wait() == ProcessEnd()
    assert store.trial(key).record().state == "completed"


def test_ends_are_told_apart(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.RaisesAlways)
    key = trial_key(fingerprint, order(0.5), THRESHOLD)
    failed = TrialProcess(store, key, order(0.5))
    list(failed.results())
    assert "RuntimeError: the trainer is broken" in failed.wait().crash
    assert store.trial(key).record().state == "failed"
    killed = TrialProcess(store, "killed", order(0.6))
    os.kill(killed._process.pid, signal.SIGKILL)
    assert list(killed.results()) == []
    assert killed.wait().killed.startswith("the trial's process was killed by SIGKILL")


def test_an_interrupted_trial_saves_its_state(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    parameters = order(0.9, epochs=200)
    key = trial_key(fingerprint, parameters, THRESHOLD)
    process = TrialProcess(store, key, parameters)
    for _ in process.results():
        process.interrupt()
    assert process.wait() == ProcessEnd()
    assert store.trial(key).record().state == "stopped"


@pytest.fixture
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))


@pytest.fixture
def forked(tmp_path, monkeypatch):
    """The processes that a trial has forked; they are ended."""
    noted = tmp_path / "forked"
    monkeypatch.setenv("FORKED", str(noted))
    yield lambda: [int(line) for line in noted.read_text().split()]
    for child in map(int, noted.read_text().split() if noted.exists() else ()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@linux
@pytest.mark.parametrize("server", [ForkServer, lambda: contextlib.nullcontext(fresh_interpreter)])
def test_its_end_counts_and_not_that_of_what_it_has_forked(tmp_path, forked, epochs_log, server):
    """Which has the pipe of results open, and the trial's lock."""
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Forks)
    key = trial_key(fingerprint, order(0.7), THRESHOLD)
    with server() as start:
        process = TrialProcess(store, key, order(0.7), start)
        assert [result["epoch"] for result in process.results()] == [1, 2, 3]
        assert process.wait() == ProcessEnd()
    assert forked()
    assert all(psutil.pid_exists(child) for child in forked())
    assert store.trial(key).record().state == "completed"
    assert store.trial(key).holder() is None
    with store.trial(key).locked():
        pass


@pytest.mark.slow
@linux
def test_one_that_is_stopped_is_ended_by_its_limit(tmp_path, monkeypatch):
    store, _ = begun(tmp_path / "experiment", curve_modules.Slow)
    process = TrialProcess(store, "stopped", order(0.9, epochs=200), seconds=0.5)
    results = process.results()
    assert next(results)["epoch"] == 1
    os.kill(process._process.pid, signal.SIGSTOP)
    monkeypatch.setattr("autocompress.trial.process.GRACE_SECONDS", 0.0)
    list(results)
    assert process.wait() == ProcessEnd(
        killed="the trial's process was killed, as it did not end by itself after maximal_trial_seconds (0.5): it may "
        "have been stopped"
    )


@pytest.mark.slow
@linux
def test_a_trial_goes_on_when_the_server_that_forked_it_is_killed(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    parameters = order(0.9, epochs=3)
    with ForkServer() as server:
        process = TrialProcess(store, trial_key(fingerprint, parameters, THRESHOLD), parameters, server)
        results = process.results()
        seen = [next(results)]
        server._server.kill()
        seen += results
        assert process.wait().killed is not None, "nothing has told its exit code"
    assert [result["epoch"] for result in seen] == [1, 2, 3]
    assert store.trial(trial_key(fingerprint, parameters, THRESHOLD)).record().epochs == 3


@pytest.mark.slow
@linux
def test_a_server_that_is_stopped_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr("autocompress.trial.process._END_SECONDS", 0.2)
    store, _ = begun(tmp_path / "experiment", curve_modules.Never)
    with ForkServer() as server:
        TrialProcess(store, "first", order(0.5), server).end()
        process = server._server
        os.kill(process.pid, signal.SIGSTOP)
    assert process.returncode == -signal.SIGKILL
