"""Directories of a search that never began."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"


@contextlib.contextmanager
def removed_if_unused(path: Path) -> Iterator[None]:
    """Remove a directory, and parents of it, that the block has created and that hold at most the lock's file."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # another process has made something there meanwhile
            for folder in new:
                if [entry.name for entry in folder.iterdir()] == [_LOCK]:
                    (folder / _LOCK).unlink()
                folder.rmdir()
