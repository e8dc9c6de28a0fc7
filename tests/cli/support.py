"""Running the commands, in this process or in one of their own."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import termios
import threading

from typer.testing import CliRunner

from autocompress.cli.__main__ import app
from autocompress.store import ExperimentDirectory
from tests.e2e.support import ROOT, Launcher, free_port


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


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


def record_files(directory, keys):
    """Key -> bytes and time of writing of the trial's record."""
    store = ExperimentDirectory(directory)
    paths = {key: store.trial(key).path / "record.json" for key in keys}
    return {key: (path.read_bytes(), path.stat().st_mtime_ns) for key, path in paths.items()}
