"""Real searches from the command line: digits from start to end, and Ctrl-C on a terminal."""

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import termios
import threading

import pytest

from autocompress.store import ExperimentDirectory
from tests.e2e import digits
from tests.e2e.support import ROOT, Launcher, free_port

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


def test_digits(shared):
    folder, printed = digits.finished(shared)
    out, port, stdout = folder / "experiment", printed["port"], printed["stdout"]
    assert printed["stderr"] == ""
    url, accuracy, longest, first = stdout.splitlines()[:4]
    assert re.fullmatch(rf"web page: http://127\.0\.0\.1:{port}/[0-9a-f]{{32}}/oview", url)
    assert accuracy.startswith("accuracy: ")
    assert re.match(r"search: at most \d+ trials, \d+ epochs; ", longest)
    assert first.startswith("trial 1: l2 at rate 0.5: accuracy ")
    assert "INFO" not in stdout, "NNI's own lines are left out"
    status = looked(out, "status")
    assert "state    ended" in status
    assert "when loaded afresh" in status
    records = json.loads(looked(out, "trials", "--json"))
    assert sum(line.startswith("trial ") for line in stdout.splitlines()) == len(records)
    best = json.loads(looked(out, "best", "--json"))
    assert best["feasible"]
    assert best["verified_accuracy"] == pytest.approx(best["accuracy"])
    assert f'autocompress.load_compressed("{best["checkpoint"]}", trust_module=True)' in stdout


def record_files(directory, keys):
    """Key -> bytes and time of writing of the trial's record."""
    store = ExperimentDirectory(directory)
    paths = {key: store.trial(key).path / "record.json" for key in keys}
    return {key: (path.read_bytes(), path.stat().st_mtime_ns) for key, path in paths.items()}
