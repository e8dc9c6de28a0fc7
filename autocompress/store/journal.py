"""The append-only journal of an experiment: proposals, results and verdicts, one JSON object a line.

Every line is on disk before it has an effect, so that a process killed at any moment can be replayed, and ends with a
checksum, so that a changed bit is found. After Optuna's journal storage.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from autocompress.errors import StoreError
from autocompress.plain_json import dumps, parse

_SEAL = re.compile(rb',? *\n? *"checksum": "([0-9a-f]{8})"\s*\}\s*', re.ASCII)
_LONGEST_SEAL = 64


def sealed(text: str) -> str:
    """The text of a JSON object, with a last key `checksum`: CRC-32 of what stands before it."""
    head = text.rstrip()[:-1].rstrip()
    comma = "" if head.endswith("{") else ","
    gap, end = ("\n  ", "\n}") if "\n" in text else (" " * bool(comma), "}")
    return f'{head}{comma}{gap}"checksum": "{zlib.crc32(head.encode()):08x}"{end}'


def unsealed(data: bytes) -> dict[str, Any]:
    """The JSON object that was sealed, without its checksum.

    Raises:
        ValueError: it is not JSON, or not what was written.
    """
    found = _SEAL.search(data, max(0, len(data) - _LONGEST_SEAL))
    if found is None or found.end() != len(data):
        raise ValueError("it must end with a checksum; it does not")
    if zlib.crc32(data[: found.start()]) != int(found[1], 16):
        raise ValueError("it is not what was written: its checksum is another one")
    value: dict[str, Any] = parse(data)  # what ends with a key is an object
    del value["checksum"]
    return value


class Journal:
    """An append-only file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, event: str, **content: Any) -> None:
        """Write one event and sync it to disk."""
        line = sealed(dumps({"event": event, **content})) + "\n"
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
            StoreError: a line is not what was written, or the file cannot be read.
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
        if rest and not _is_cut(rest):
            complete.append(rest)
            end += len(rest)
        events = [_event(line) for line in complete]
        if None in events:
            before = self._bytes(0)[:start].count(b"\n")
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
        """Complete a last line that `read` accepts or cut off one that it drops, so that the next has its own line.

        Raises:
            StoreError: the last line is not what was written.
        """
        if not self.size():
            return
        with self.path.open("r+b") as file:
            begin, line = _last_line(file)
            if not line.endswith(b"\n") and _is_cut(line):
                file.truncate(begin)
            elif _event(line) is None:
                raise StoreError(f"the journal {self.path} is damaged at its last line")
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


def _is_cut(line: bytes) -> bool:
    """Whether a last line without its end is what a crash left; else it is whole, or its end is what has changed."""
    return _event(line) is None and _event(line[:-1]) is None


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        return unsealed(line)
    except ValueError:
        return None
