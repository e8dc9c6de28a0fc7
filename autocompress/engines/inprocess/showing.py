"""The report of a run, drawn by a process of its own: nothing waits for matplotlib."""

from __future__ import annotations

import atexit
import subprocess
import sys

from autocompress.store import ExperimentDirectory


def show(store: ExperimentDirectory) -> subprocess.Popen[bytes]:
    """Begin to write `report.html` and the plots; whoever leaves Python waits for it."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "autocompress.cli", "report", str(store.path)]
    process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
    atexit.register(process.wait)
    return process
