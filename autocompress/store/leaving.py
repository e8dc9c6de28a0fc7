"""Directories that were made for a search which never began."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

_LOCK = ".lock"


@contextlib.contextmanager
def removed_if_unused(path: Path) -> Iterator[None]:
    """Remove a directory that the block has made, and parents made for it, where they hold the lock's file at most.

    Args:
        path: of the directory.
    """
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # another process has made something there meanwhile
            for folder in new:
                _remove_if_empty(folder)


def _remove_if_empty(folder: Path) -> None:
    if [entry.name for entry in folder.iterdir()] == [_LOCK]:
        (folder / _LOCK).unlink()
    folder.rmdir()
