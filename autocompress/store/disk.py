"""Write files atomically, recognize a full disk, and remove directories of searches that never began."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autocompress.errors import StoreError
from autocompress.plain_json import dumps, parse


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file to a temporary one, sync it to disk, and rename it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    text = dumps(content, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        content = parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content


_FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 16
_MARK = f"{StoreError.__module__}.{StoreError.__name__}: "
_CODES = ("SQLITE_FULL", "ENOSPC")
"""Of data bases and NNI's manager for a full disk."""


def require_writable(directory: Path) -> None:
    """Create a directory and check that files can be written there."""
    done = "made"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        done = "written to"
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        if is_full(error):
            raise StoreError(disk_full_message(directory)) from error
        raise StoreError(f"the output directory {directory} cannot be {done}: {error} (name another one)") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, is that of a full disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def require_space(directory: Path, output: str) -> None:
    """Raise StoreError if a process failed because the disk is full, from its output or by writing a file."""
    last = next(iter(output.splitlines()[-1:]), "")
    if last.startswith(_MARK):
        raise StoreError(last.removeprefix(_MARK))
    if any(code in output for code in _CODES):
        raise StoreError(disk_full_message(directory))
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if is_full(error):
            raise StoreError(disk_full_message(directory)) from error
        raise


def disk_full_message(directory: Path) -> str:
    """Message for a full disk."""
    return f"the disk of {directory} is full: free some space, then resume"


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
