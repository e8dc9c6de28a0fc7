"""The append-only journal of an experiment: proposals, results and verdicts, one JSON object a line.

The journal is the truth. Every line is on disk before anything follows from it, so that a process killed at any moment
can be replayed from it. Kept in the manner of Optuna's journal storage.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from autocompress.errors import StoreError


class Journal:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **content: Any) -> None:
        """Write one event and wait until it is on disk.

        Raises:
            StoreError: the file cannot be written.
        """
        line = json.dumps({"event": event, **content}, allow_nan=False, sort_keys=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"the journal {self.path} cannot be written: {error}") from error

    def read(self) -> list[dict[str, Any]]:
        """All events in order. A last line that was cut by a crash is dropped.

        Raises:
            StoreError: another line than the last is not a JSON object.
        """
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")
        complete, rest = lines[:-1], lines[-1]
        if rest and _parsed(rest) is not None:
            complete.append(rest)
        events = [_parsed(line) for line in complete]
        if None in events[:-1]:
            raise StoreError(f"the journal {self.path} is damaged at line {events.index(None) + 1}")
        return [event for event in events if event is not None]

    def repair(self) -> None:
        """End a last line that `read` counts and cut off one that it drops, so that the next starts on its own line."""
        data = self.path.read_bytes() if self.path.exists() else b""
        if not data:
            return
        begin = data.rfind(b"\n", 0, -1) + 1
        with self.path.open("r+b") as file:
            if _parsed(data[begin:]) is None:
                file.truncate(begin)
            elif not data.endswith(b"\n"):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
                file.flush()
            os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
