"""Searches of a comparison, each in a process of its own."""

import json
import signal
import subprocess
import sys

import pytest

from tests.compare.support import SPACE
from tests.e2e.support import ROOT, processes_of, until

pytestmark = pytest.mark.slow


class Command:
    def __init__(self, home, space):
        self.output = home.with_suffix(".txt")
        command = [sys.executable, "-m", "autocompress.cli", "compare", "tests/curve_modules.py:Slow"]
        options = ["--search-space", str(space), "--tuners", "adaptive,random", "--seeds", "1", "--trials", "4"]
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do it for background jobs
        try:
            with self.output.open("a") as output:
                self.process = subprocess.Popen(
                    [*command, *options, "--out", str(home)], cwd=ROOT, stdout=output, stderr=output
                )
        finally:
            signal.signal(signal.SIGINT, before)

    def printed(self):
        return self.output.read_text(errors="replace")


def test_ctrl_c_ends_it_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    space, home = tmp_path / "space.json", tmp_path / "home"
    space.write_text(json.dumps(SPACE))
    first = Command(home, space)
    until(lambda: list(home.glob("*/0/trials/*/record.json")), first)
    first.process.send_signal(signal.SIGINT)
    assert first.process.wait(120) == 130, first.printed()
    assert f"the same command with --out {home} goes on" in first.printed()
    assert not list(processes_of(home)), "nothing may be left running"
    ended = [path for path in home.glob("*/0/trials/*/record.json") if '"completed"' in path.read_text()]
    kept = {path: path.stat().st_mtime_ns for path in ended}
    assert kept
    again = Command(home, space)
    assert again.process.wait(240) == 0, again.printed()
    assert "of the best known rate" in again.printed()
    done = json.loads((home / "comparison.json").read_text())
    assert [each["error"] for each in done["outcomes"]] == [None, None]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "nothing that had ended runs again"
