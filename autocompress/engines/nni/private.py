"""Files that only their owner can read: those that have the secret address of NNI's page in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from autocompress.errors import EngineError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_directory(path: Path) -> None:
    """Make a directory, or take an existing one, that only its owner can enter.

    Its parents are made as others are; the umask of the process is left alone, as other threads may write files too.

    Raises:
        EngineError: it cannot be made, or belongs to another user.
    """
    try:
        path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        _close(path)
    except OSError as error:
        raise EngineError(f"NNI's files must be in a directory that only you can read; {path}: {error}") from error


def make_private_file(path: Path, content: bytes = b"") -> Path:
    """Make a file, or take an existing one, that only its owner can read.

    Args:
        path: of the file; its directory exists.
        content: of a new one.

    Raises:
        EngineError: it cannot be made, or belongs to another user.
    """
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        except FileExistsError:
            _close(path)
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except OSError as error:
        raise EngineError(f"NNI's files must be ones that only you can read; {path}: {error}") from error
    return path


def _close(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        path.chmod(mode & ~_OTHERS)
