"""The append-only journal of an experiment: proposals, results and verdicts, one JSON object a line.

Every line is on disk before it has an effect, so that a process killed at any moment can be replayed. After Optuna's
journal storage.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

from autocompress.errors import StoreError
from autocompress.plain_json import dumps, parse


class Journal:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **content: Any) -> None:
        """Write one event and sync it to disk."""
        line = dumps({"event": event, **content}) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreError(f"the journal {self.path} cannot be written: {error}") from error

    def size(self) -> int:
        """Size in bytes."""
        try:
            return self.path.stat().st_size if self.path.exists() else 0
        except OSError as error:
            raise StoreError(f"the journal {self.path} cannot be read: {error}") from error

    def read(self, start: int = 0) -> list[dict[str, Any]]:
        """All events from byte `start` on, in order. A last line that was cut by a crash is dropped.

        Raises:
            StoreError: another line than the last is not a JSON object, or the file cannot be read.
        """
        return self.read_on(start)[0]

    def read_on(self, start: int) -> tuple[list[dict[str, Any]], int]:
        """The events after byte `start`, and where to continue: before a line that is being written."""
        data = self._bytes(start)
        if start and data.startswith(b"\n"):  # the end of a line that was read without it
            data, start = data[1:], start + 1
        lines = data.split(b"\n")
        complete, rest = lines[:-1], lines[-1]
        end = start + len(data) - len(rest)
        if rest and _parsed(rest) is not None:
            complete.append(rest)
            end += len(rest)
        events = [_parsed(line) for line in complete]
        if None in events[:-1]:
            before = self.path.read_bytes()[:start].count(b"\n")
            raise StoreError(f"the journal {self.path} is damaged at line {before + 1 + events.index(None)}")
        return [event for event in events if event is not None], end

    def _bytes(self, start: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StoreError(f"the journal {self.path} cannot be read: {error}") from error

    def repair(self) -> None:
        """Complete a last line that `read` accepts or cut off one that it drops, so that the next has its own line."""
        if not self.size():
            return
        with self.path.open("r+b") as file:
            begin, line = _last_line(file)
            if _parsed(line) is None:
                file.truncate(begin)
            elif not line.endswith(b"\n"):
                file.write(b"\n")
                file.flush()
            else:
                return
            os.fsync(file.fileno())


def _last_line(file: BinaryIO, window: int = 1 << 16) -> tuple[int, bytes]:
    """Offset and content of the last line; the file is at its end then."""
    end = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, end - window))
    data = file.read()
    begin = data.rfind(b"\n", 0, -1) + 1
    return (start + begin, data[begin:]) if begin or not start else _last_line(file, 16 * window)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = parse(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
