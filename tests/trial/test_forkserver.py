"""The server that trials are forked from."""

import json
import os
import shutil
import signal
import subprocess
import sys

import psutil
import pytest

from autocompress.trial.forkserver import ForkServer
from autocompress.trial.process import PARAMETERS, PIPE, ProcessEnd, TrialProcess
from autocompress.trial.spec import trial_key
from tests import curve_modules
from tests.trial.processes import THRESHOLD, begun, linux, order

PIPE_CHANNEL = "autocompress.trial.process:PipeChannel"


def servers():
    """Those of this process; what other tests have left of theirs may have no command line any more."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "forkserver" in " ".join(child.cmdline())]


@linux
@pytest.mark.slow
def test_many_run_at_a_time_from_one_server(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Never)
    rates, before = [0.1, 0.3, 0.5, 0.7], servers()
    with ForkServer() as server:
        keys = [trial_key(fingerprint, order(rate), THRESHOLD) for rate in rates]
        running = [TrialProcess(store, key, order(rate), server) for key, rate in zip(keys, rates, strict=True)]
        assert [len(list(process.results())) for process in running] == [3] * 4
        assert [process.wait() for process in running] == [ProcessEnd()] * 4
        (own,) = set(servers()) - set(before)
    assert [store.trial(key).record().requested_rate for key in keys] == rates
    assert not own.is_running()


@linux
@pytest.mark.slow
def test_an_exit_runs_what_was_registered_for_it(tmp_path):
    """Loggers such as wandb send their last lines from there."""
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.TellsItsEnd)
    key = trial_key(fingerprint, order(0.5), THRESHOLD)
    with ForkServer() as server:
        process = TrialProcess(store, key, order(0.5), server)
        list(process.results())
        assert process.wait() == ProcessEnd()
    assert "the module's last words" in (store.trial(key).path / "output.txt").read_text()


@linux
@pytest.mark.slow
def test_a_server_that_was_killed_is_replaced(tmp_path):
    with ForkServer() as server:
        store, fingerprint = begun(tmp_path / "experiment", curve_modules.Never)
        for rate in (0.3, 0.5):
            key = trial_key(fingerprint, order(rate), THRESHOLD)
            process = TrialProcess(store, key, order(rate), server)
            list(process.results())
            assert process.wait() == ProcessEnd()
            assert store.trial(key).record().state == "completed"
            os.kill(server._server.pid, signal.SIGKILL)


def started(server, store, parameters):
    """A trial as NNI's manager would start it."""
    command = [sys.executable, "-m", "autocompress.trial", str(store.path), "--channel", PIPE_CHANNEL]
    environment = {**os.environ, **server.address(), PARAMETERS: json.dumps(parameters), PIPE: "2"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@linux
@pytest.mark.slow
def test_what_stands_for_a_trial_ends_as_the_trial_does(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    with ForkServer() as server:
        whole = started(server, store, order(0.5))
        _, results = whole.communicate()
        assert whole.returncode == 0, results
        assert [json.loads(line)["epoch"] for line in results.splitlines()] == [1, 2]
        record = store.trial(trial_key(fingerprint, order(0.5), THRESHOLD)).record()
        assert record.state == "completed"

        long = order(0.9, epochs=200)
        trial = store.trial(trial_key(fingerprint, long, THRESHOLD))
        interrupted = started(server, store, long)
        interrupted.stderr.readline()
        interrupted.send_signal(signal.SIGINT)
        interrupted.communicate()
        assert interrupted.returncode == 0
        assert trial.record().state == "stopped"

        shutil.rmtree(trial.path)
        for victim in ("what stands for it", "the trial"):
            running = started(server, store, long)
            running.stderr.readline()
            forked = psutil.Process(trial.holder()["pid"])
            assert forked.ppid() == server._server.pid
            os.kill(running.pid if victim == "what stands for it" else forked.pid, signal.SIGKILL)
            running.communicate()
            assert running.returncode == -signal.SIGKILL, victim
            psutil.wait_procs([forked], timeout=10)
            assert not forked.is_running(), victim


@linux
@pytest.mark.slow
def test_without_its_server_a_trial_runs_by_itself(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Never)
    with ForkServer() as server:
        address = server.address()
    server.address = lambda: address
    alone = started(server, store, order(0.5))
    _, results = alone.communicate()
    assert alone.returncode == 0, results
    assert store.trial(trial_key(fingerprint, order(0.5), THRESHOLD)).record().state == "completed"
