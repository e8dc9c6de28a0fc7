"""The records of an archive that `torch.save` has written, none of them packed."""

from __future__ import annotations

import io
import struct
import sys
import zipfile
from typing import IO, cast

import torch

from autocompress.errors import StoreError, short

INDEX = "data.pkl"
_TENSORS = "data/"
_ALIGNMENT = 16
"""Bytes of the largest number."""
_HEADER = struct.Struct("<4s22xHH")
"""Of a record: signature, length of its name, length of what follows the name."""


class _File:
    """What zipfile reads of a file that is in memory."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._place = data, 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: len(self._data)}[whence]
        if start + offset < 0:
            raise OSError("a place before the file's begin")
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._place + size
        found = bytes(self._data[self._place : end])
        self._place += len(found)
        return found


class Records:
    """All of them together are no larger than the file.

    Args:
        data: a whole file, writable; the tensors are parts of it.

    Raises:
        StoreError: they are not stored as torch does.
    """

    def __init__(self, data: memoryview) -> None:
        with zipfile.ZipFile(cast(IO[bytes], _File(data))) as archive:
            entries = archive.infolist()
        self._data = data
        root = entries[0].filename.partition("/")[0] if entries else ""
        self._entries = {entry.filename.removeprefix(f"{root}/"): entry for entry in entries}
        plain = all(_is_plain(entry) for entry in entries) and len(self._entries) == len(entries)
        if not plain or sum(entry.file_size for entry in entries) > len(data):
            raise StoreError("its records must be stored as they are, each once")
        if not all(_is_known(name) for name in self._entries):
            raise StoreError("it must be an archive of tensors and of nothing else")
        if "byteorder" in self._entries and bytes(self.bytes("byteorder")) != sys.byteorder.encode():
            raise StoreError(f"its numbers must be {sys.byteorder}-endian")

    def bytes(self, name: str, most: int = 1 << 20) -> memoryview:
        """A record, without its checksum looked at: that of the whole file has been."""
        entry = self._entries.get(name)
        if entry is None or entry.file_size > most:
            raise StoreError(f"it must have a record {short(name)} of at most {most} bytes")
        signature, name_length, extra_length = _HEADER.unpack_from(self._data, entry.header_offset)
        start = entry.header_offset + _HEADER.size + name_length + extra_length
        found = self._data[start : start + entry.file_size]
        if signature != b"PK\x03\x04" or len(found) != entry.file_size:
            raise StoreError(f"record {short(name)} must be there as a whole")
        return found

    def tensor(self, key: str, size: int) -> torch.Tensor:
        """A record of numbers, which must have as many bytes as it is said to have."""
        data = self.bytes(f"{_TENSORS}{key}", size)
        if len(data) != size:
            raise StoreError(f"record {short(key)} must have {size} bytes")
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        found = torch.frombuffer(data, dtype=torch.uint8)
        return found if found.data_ptr() % _ALIGNMENT == 0 else found.clone()


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size


def _is_known(name: str) -> bool:
    records = name.startswith(_TENSORS) and name.removeprefix(_TENSORS).isdecimal()
    return records or name in (INDEX, "byteorder", "version") or name.startswith(".")
