"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autocompress.errors import StoreError
from autocompress.plain_json import dumps, parse


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file beside its place, wait until it is on disk, and rename it.

    Raises:
        StoreError: the file cannot be written.
    """
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
    """The JSON object in a file.

    Raises:
        StoreError: the file cannot be read or does not hold a JSON object.
    """
    try:
        content = parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} must hold a JSON object; got {type(content).__name__}")
    return content
