"""A disk that is full is not a trial's fault: the search stops, and goes on when there is space."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from autocompress.errors import StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 16
_MARK = f"{StoreError.__module__}.{StoreError.__name__}: "


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is of a disk that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def require_space(directory: Path, crash: str = "") -> None:
    """Check that it was not for a full disk that a trial's process ended without a result.

    Args:
        directory: the experiment's.
        crash: what the process printed; empty where even that found no space.

    Raises:
        StoreError: it was.
    """
    last = next(iter(crash.splitlines()[-1:]), "")
    if last.startswith(_MARK):
        raise StoreError(last.removeprefix(_MARK))
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_full(error):
            raise StoreError(told_full(directory)) from error
        raise


def told_full(directory: Path) -> str:
    """What to say of a full disk."""
    return f"the disk of {directory} is full: free some space, then resume"
