"""Starting, watching and killing what the tests started, and nothing else."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autocompress.store import ExperimentDirectory, Ledger

ROOT = Path(__file__).parents[2]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def skip(reason):
    """Skip where the machine lacks something; where nothing must be skipped, fail."""
    (pytest.fail if os.environ.get("AUTOCOMPRESS_SKIP_NOTHING") else pytest.skip)(reason)


class Launcher:
    """A launching process; what it prints is in `output`."""

    def __init__(self, directory, module="CountsEpochs", *, action="run", epochs_log=None):
        self.directory = Path(directory)
        self.port = free_port()
        self.output = self.directory.parent / f"{self.directory.name}-{action}-{self.port}.log"
        command = [sys.executable, "-m", "tests.e2e.launch", str(directory), module, str(self.port), action]
        environment = {**os.environ, "EPOCHS_LOG": str(epochs_log or self.directory.parent / "epochs.log")}
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def wait(self, seconds=240):
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end in {seconds} s: {self.printed()[-3000:]}") from None

    def printed(self):
        return self.output.read_text(errors="replace")

    def kill(self):
        """End it and its manager, which outlives it, and what runs under that."""
        family = [*processes_of(self.directory)]
        with contextlib.suppress(psutil.NoSuchProcess):
            family.append(psutil.Process(self.process.pid))
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def processes_of(directory, what=""):
    """Processes whose command line names the directory (trials, and the manager through NNI's own directory)."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(directory) in command and what in command and process.pid != os.getpid():
            yield process


def trial_of(directory):
    """A trial: on NNI what its manager has started stands for one that was forked after it."""
    return max(processes_of(directory, "-m autocompress.trial "), key=psutil.Process.create_time, default=None)


def manager_of(directory):
    return next(processes_of(directory, "nni_node/main.js"), None)


def until(condition, launcher, seconds=180, every=0.05):
    """Wait for a condition and return what it gave; a launcher has a `process` and what it `printed`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        assert launcher.process.poll() is None, f"the launcher ended: {launcher.printed()[-3000:]}"
        time.sleep(every)
    raise AssertionError(f"it never came to that: {launcher.printed()[-3000:]}")


def results(directory):
    return Ledger(ExperimentDirectory(directory)).records


def trained_epochs(epochs_log):
    """Rate -> epochs trained at it, over all attempts."""
    counts = {}
    for line in Path(epochs_log).read_text().splitlines():
        rate = float(line.split()[0])
        counts[rate] = counts.get(rate, 0) + 1
    return counts
