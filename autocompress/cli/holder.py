"""Which process runs an experiment."""

from __future__ import annotations

import fcntl

import psutil

from autocompress.store import ExperimentDirectory


def holder(store: ExperimentDirectory) -> int | None:
    """Id of the process that holds the experiment's lock; None where nobody runs it.

    The lock itself is only touched while the process whose id it names is alive, so that looking never keeps anyone
    from taking it.
    """
    try:
        with (store.path / ".lock").open() as file:
            process = int(file.read())
            return process if psutil.pid_exists(process) and _is_locked(file.fileno()) else None
    except (OSError, ValueError):
        return None


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
