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
        """Cut off a last line that was not written to its end, so that the next one starts on its own line."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)
                os.fsync(file.fileno())


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
