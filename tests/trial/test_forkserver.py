"""The server that trials are forked from."""

import os
import signal

import psutil
import pytest

from autocompress.trial.forkserver import ForkServer
from autocompress.trial.process import ProcessEnd, TrialProcess
from autocompress.trial.spec import trial_key
from tests import curve_modules
from tests.trial.processes import THRESHOLD, begun, linux, order


def servers():
    return [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]


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
