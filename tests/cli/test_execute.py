"""Searches of the command line on a terminal: Ctrl-C, and going on."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading

import pytest

from autocompress import load_compressed
from autocompress.store import ExperimentDirectory
from tests.e2e.launch import search_space
from tests.e2e.support import ROOT, Launcher, free_port, manager_of, processes_of, results, trial_of, until

pytestmark = pytest.mark.slow


COMMAND = [sys.executable, "-m", "autocompress.cli"]


STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x1b]*\x1b\\")


def environment(home):
    home.mkdir(exist_ok=True)
    return {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "TERM": "xterm"}


class Terminal(Launcher):
    """The command line on a terminal of its own; `press` reaches it as keys do."""

    def __init__(self, directory, *arguments):
        self.directory = directory
        self._written = bytearray()
        self._keyboard, screen = os.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments), "--port", str(free_port())],
            cwd=ROOT,
            env=environment(directory.parent / "home"),
            stdin=screen,
            stdout=screen,
            stderr=screen,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C goes to the terminal's processes
        )
        os.close(screen)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys):
        os.write(self._keyboard, keys)

    def printed(self):
        return STYLE.sub("", self._written.decode(errors="replace"))

    def close(self):
        self.kill()
        self._reader.join(10)
        os.close(self._keyboard)

    def _read(self):
        with contextlib.suppress(OSError):  # the other end is closed when the last process has gone
            while part := os.read(self._keyboard, 65536):
                self._written.extend(part)


def looked(directory, command, *options):
    done = subprocess.run(
        [*COMMAND, command, str(directory), *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ctrl_c_on_a_terminal_and_resume(tmp_path):
    directory, space = tmp_path / "experiment", tmp_path / "space.json"
    space.write_text(json.dumps(search_space("l2")))
    terminal = Terminal(directory, "run", "tests/curve_modules.py:Slow", "--search-space", space, "--out", directory)
    try:
        until(lambda: len(results(directory)) >= 1 and trial_of(directory), terminal)
        assert f"state    running (process {terminal.process.pid})" in looked(directory, "status")
        terminal.press(b"\x03")
        until(lambda: "stopping" in terminal.printed(), terminal, 20)
        with contextlib.suppress(OSError):
            terminal.press(b"\x03")  # impatience does not break off the stopping
        assert terminal.wait(60) == 130, terminal.printed()
        assert manager_of(directory) is None
        assert not list(processes_of(directory)), "nothing may be left running"
    finally:
        terminal.close()
    assert f"stopped; go on with: autocompress resume {directory}" in terminal.printed().replace("\r\n", "")
    assert "Traceback" not in terminal.printed()
    assert "not running; go on with" in looked(directory, "status")
    before = record_files(directory, {record.key for record in results(directory)})
    assert before
    terminal = Terminal(directory, "resume", directory)
    try:
        assert terminal.wait() == 0, terminal.printed()
    finally:
        terminal.close()
    assert before.items() <= record_files(directory, before).items(), "no finished trial was trained again"
    assert [record.requested_rate for record in results(directory)] == [0.5, 0.6, 0.7, 0.65, 0.625]
    checkpoint = json.loads(looked(directory, "best", "--json"))["checkpoint"]
    assert load_compressed(checkpoint).hidden.out_features == 160


def test_ctrl_c_before_the_search_has_begun(tmp_path):
    directory, space = tmp_path / "experiment", tmp_path / "space.json"
    space.write_text(json.dumps(search_space("l2")))
    terminal = Terminal(directory, "run", "tests/curve_modules.py:Slow", "--search-space", space, "--out", directory)
    try:
        until(lambda: "measuring the uncompressed model" in terminal.printed(), terminal)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait(60) == 130, terminal.printed()
    finally:
        terminal.close()
    assert "stopped" in terminal.printed()
    assert "Traceback" not in terminal.printed()
    assert not list(processes_of(directory))


def record_files(directory, keys):
    """Key -> bytes and time of writing of the trial's record."""
    store = ExperimentDirectory(directory)
    paths = {key: store.trial(key).path / "record.json" for key in keys}
    return {key: (path.read_bytes(), path.stat().st_mtime_ns) for key, path in paths.items()}
