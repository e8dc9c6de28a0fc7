"""The report of a run, drawn by a process of its own: nothing waits for matplotlib."""

from __future__ import annotations

import atexit
import subprocess
import sys
from pathlib import Path

from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory


class Report:
    """`report.html` and the plots, which are being written; whoever leaves Python waits for them.

    Args:
        store: the run's directory.
    """

    def __init__(self, store: ExperimentDirectory) -> None:
        self._path = store.path / "report.html"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "autocompress.cli", "report", str(store.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,  # a spawn instead of a fork, which takes longer the more memory there is
        )
        atexit.register(self._process.wait)

    def wait(self) -> Path:
        """The page, when it is there.

        Raises:
            StoreError: it cannot be written.
        """
        code = self._process.wait()
        if code != 0 or not self._path.exists():
            raise StoreError(f"{self._path} could not be written; `autocompress report` tells why")
        return self._path
