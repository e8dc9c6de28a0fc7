"""Ctrl-C of the command line: it ends cleanly, tells how to go on, and going on gives the same answer."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.e2e.launch import search_space
from tests.e2e.support import ROOT, Launcher, free_port, manager_of, processes_of, results, trial_of, until

pytestmark = pytest.mark.slow


class CommandLine(Launcher):
    def __init__(self, directory, *arguments):
        self.directory = directory
        self.output = directory.parent / f"{arguments[0]}.log"
        command = [sys.executable, "-m", "autocompress.cli", *map(str, arguments), "--port", str(free_port())]
        with self.output.open("w") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=output, stderr=output)


def test_ctrl_c_and_resume(tmp_path):
    directory, space = tmp_path / "experiment", tmp_path / "space.json"
    space.write_text(json.dumps(search_space("l2")))
    launcher = CommandLine(
        directory, "run", "tests/curve_modules.py:Slow", "--search-space", space, "--out", directory, "--trials", "9"
    )
    try:
        until(lambda: len(results(directory)) >= 1 and trial_of(directory), launcher)
        launcher.process.send_signal(signal.SIGINT)
        assert launcher.wait(60) == 130, launcher.printed()
        assert f"stopped; go on with: autocompress resume {directory}" in launcher.printed()
        assert manager_of(directory) is None
        assert not list(processes_of(directory)), "nothing may be left running"
        before = results(directory)
        launcher = CommandLine(directory, "resume", directory)
        assert launcher.wait() == 0, launcher.printed()
    finally:
        launcher.kill()
    after = results(directory)
    assert after[: len(before)] == before
    assert [record.requested_rate for record in after] == [0.5, 0.6, 0.7, 0.65, 0.625]
    assert all(record.state == "completed" for record in after), after
    assert "l2 at rate 0.6" in launcher.printed()
