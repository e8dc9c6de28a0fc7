"""`weights.pt` read without `torch.load`.

`torch.load(weights_only=True)` runs no code, but it believes the sizes that a file claims (before torch 2.10 to the
point of reading and writing outside of its memory: CVE-2026-24747), makes objects of thirty kinds, and unpacks what is
packed. A checkpoint needs a dictionary of dense tensors and nothing else, so the archive's index is interpreted here:
a closed list of instructions over plain values, each tensor within a record of the file that has its bytes.
"""

from __future__ import annotations

import io
import itertools
import math
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

import torch

from autocompress.compress.shipping.dtypes import DTYPES
from autocompress.compress.shipping.grammar import MOST_ITEMS
from autocompress.errors import StoreError, short

_INDEX, _RECORDS = "data.pkl", "data/"
_MOST_INDEX_BYTES, _MOST_DIMENSIONS = 1 << 26, 32
_DEEPEST = 16
_HEADER = struct.Struct("<4s22xHH")
"""Of a record: signature, length of its name, length of what follows the name."""
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_KNOWN = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
    "torch.storage UntypedStorage",
    *(f"torch {name}" for name in (*_STORAGES, *DTYPES)),
}
"""What the index may name; none of it is imported or called."""


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass(frozen=True)
class _Storage:
    data: torch.Tensor
    dtype: torch.dtype | None


def read_archive(file: IO[bytes]) -> dict[str, Any]:
    """The dictionary that `torch.save` has written: dense tensors on the CPU, and plain values, by name.

    Args:
        file: open for reading; tensors are copies of what is in it.

    Raises:
        StoreError: it is something else, or claims to hold what it does not.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            state = _Index(_Records(archive, file)).read()
    except StoreError:
        raise
    except Exception as error:  # whatever zipfile and pickletools raise for bytes that are neither
        raise StoreError(f"it is not an archive as torch.save writes it: {error}") from error
    if type(state) is not dict or not all(type(name) is str for name in state):
        raise StoreError("it must hold a dictionary by names")
    return state


def plain_value(value: Any, where: str) -> Any:
    """What a module may keep in a state dict beside tensors: plain values in tuples, lists and dictionaries.

    Raises:
        StoreError: it is something else, nested too deeply, or too much.
    """
    return _plain(value, where, itertools.count(), 0)


def _plain(value: Any, where: str, items: Iterator[int], depth: int) -> Any:
    if next(items) > MOST_ITEMS:  # one container may be met in many places
        raise StoreError(f"{short(where)} must have at most {MOST_ITEMS} plain values")
    if value is None or type(value) in (bool, int, float, str, torch.Tensor):
        return value
    if depth < _DEEPEST and type(value) in (tuple, list):
        return type(value)(_plain(each, where, items, depth + 1) for each in value)
    if depth < _DEEPEST and type(value) in (dict, OrderedDict) and all(type(key) is str for key in value):
        return {key: _plain(each, where, items, depth + 1) for key, each in value.items()}
    raise StoreError(f"{short(where)} must be a tensor or plain values; it has a {type(value).__qualname__}")


class _Records:
    """The archive's records, none of them packed, all of them together no larger than the file."""

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes]) -> None:
        self._file, entries = file, archive.infolist()
        root = entries[0].filename.partition("/")[0] if entries else ""
        self._entries = {entry.filename.removeprefix(f"{root}/"): entry for entry in entries}
        plain = all(_is_plain(entry) for entry in entries) and len(self._entries) == len(entries)
        if not plain or sum(entry.file_size for entry in entries) > file.seek(0, io.SEEK_END):
            raise StoreError("its records must be stored as they are, each once")
        if not all(_is_known(name) for name in self._entries):
            raise StoreError("it must be an archive of tensors and of nothing else")
        if "byteorder" in self._entries and self.bytes("byteorder") != sys.byteorder.encode():
            raise StoreError(f"its numbers must be {sys.byteorder}-endian")

    def bytes(self, name: str, most: int = 1 << 20) -> bytearray:
        """A record, without its checksum looked at: that of the whole file has been."""
        entry = self._entries.get(name)
        if entry is None or entry.file_size > most:
            raise StoreError(f"it must have a record {name[:20]!r} of at most {most} bytes")
        self._file.seek(entry.header_offset)
        header = self._file.read(_HEADER.size)
        signature, name_length, extra_length = _HEADER.unpack(header)
        self._file.seek(name_length + extra_length, io.SEEK_CUR)
        data = bytearray(entry.file_size)
        if signature != b"PK\x03\x04" or cast(io.BufferedReader, self._file).readinto(data) != len(data):
            raise StoreError(f"record {name[:20]!r} must be there as a whole")
        return data

    def data(self, key: str, size: int) -> torch.Tensor:
        """A record of tensors, which must have as many bytes as it is said to have."""
        data = self.bytes(f"{_RECORDS}{key}", size)
        if len(data) != size:
            raise StoreError(f"record {key[:20]!r} must have {size} bytes")
        return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _is_plain(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size


def _is_known(name: str) -> bool:
    records = name.startswith(_RECORDS) and name.removeprefix(_RECORDS).isdecimal()
    return records or name in (_INDEX, "byteorder", "version") or name.startswith(".")


@dataclass
class _Index:
    """An interpreter of the pickle instructions that a dictionary of tensors takes."""

    records: _Records
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, _Storage] = field(default_factory=dict)

    def read(self) -> Any:
        for instruction, argument, _ in pickletools.genops(bytes(self.records.bytes(_INDEX, _MOST_INDEX_BYTES))):
            if instruction.name == "STOP":
                (state,) = self.stack
                return state
            if instruction.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[instruction.name](argument))
            elif instruction.name in _ACTIONS:
                _ACTIONS[instruction.name](self, argument)
            elif instruction.name != "PROTO":
                raise StoreError(f"its index must not have the instruction {instruction.name}")
        raise StoreError("its index must end")

    def memorize(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def name(self, text: str) -> None:
        if text not in _KNOWN:
            raise StoreError(f"its index must not name {text[:80]!r}")
        self.stack.append(_Name(text))

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def tuple(self, size: int | None) -> None:
        items = self.marked() if size is None else [self.stack.pop() for _ in range(size)][::-1]
        self.stack.append(tuple(items))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise StoreError("its index must fill dictionaries by names")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise StoreError("its index must append to lists")
        self.stack[-1].extend(items)

    def build(self, _: Any) -> None:
        """A state dict has its modules' versions as an attribute; nothing is done with them."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise StoreError("its index must set attributes of dictionaries only")

    def find(self, _: Any) -> None:
        """A storage: a record of the archive, read once."""
        what, kind, key, _location, count = self.stack.pop()
        if what != "storage" or type(kind) is not _Name or type(key) is not str or type(count) is not int:
            raise StoreError("its index must name storages as torch does")
        dtype = _STORAGES.get(kind.text.removeprefix("torch "))
        if dtype is None and kind.text != "torch.storage UntypedStorage":
            raise StoreError(f"its index must not take {kind.text!r} for a storage")
        if key not in self.storages:
            self.storages[key] = _Storage(self.records.data(key, count * (dtype.itemsize if dtype else 1)), dtype)
        self.stack.append(self.storages[key])

    def call(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        if type(what) is not _Name or type(arguments) is not tuple:
            raise StoreError("its index must not call that")
        if what.text == "collections OrderedDict" and not arguments:
            self.stack.append({})
        elif what.text == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides, _grad, hooks, *more = arguments
            self.stack.append(_tensor(storage, storage.dtype, offset, shape, strides, [hooks, *more]))
        elif what.text == "torch._utils _rebuild_tensor_v3":
            storage, offset, shape, strides, _grad, hooks, kind, *more = arguments
            dtype = DTYPES.get(kind.text.removeprefix("torch "))
            self.stack.append(_tensor(storage, dtype, offset, shape, strides, [hooks, *more]))
        else:
            raise StoreError(f"its index must not call {what.text!r}")


def _tensor(
    storage: _Storage, dtype: torch.dtype | None, offset: Any, shape: Any, strides: Any, more: list[Any]
) -> torch.Tensor:
    """A view of a storage, within it and of no more elements; `more` are hooks and bits: there must be none."""
    numbers = [offset, *shape, *strides]
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers) or any(more) or dtype is None:
        raise StoreError("its tensors must be plain ones")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS or storage.data.numel() % dtype.itemsize:
        raise StoreError("its tensors must have a shape and strides")
    held, wanted = storage.data.numel() // dtype.itemsize, math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if wanted else 0
    if wanted > held or last >= max(held, 1):
        raise StoreError(f"a tensor of {wanted} elements must be within its storage of {held}")
    data = storage.data.ne(0) if dtype is torch.bool else storage.data.view(dtype)
    return data.as_strided(shape, strides, offset if wanted else 0)


_CONSTANTS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINFLOAT"), lambda x: x
    ),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
}
_ACTIONS: dict[str, Callable[[_Index, Any], None]] = {
    "BINPUT": _Index.memorize,
    "LONG_BINPUT": _Index.memorize,
    "BINGET": _Index.recall,
    "LONG_BINGET": _Index.recall,
    "GLOBAL": _Index.name,
    "MARK": _Index.mark,
    "TUPLE": lambda index, _: index.tuple(None),
    "TUPLE1": lambda index, _: index.tuple(1),
    "TUPLE2": lambda index, _: index.tuple(2),
    "TUPLE3": lambda index, _: index.tuple(3),
    "SETITEM": lambda index, _: index.set_items([index.stack.pop(-2), index.stack.pop()]),
    "SETITEMS": lambda index, _: index.set_items(index.marked()),
    "APPEND": lambda index, _: index.append([index.stack.pop()]),
    "APPENDS": lambda index, _: index.append(index.marked()),
    "BUILD": _Index.build,
    "BINPERSID": _Index.find,
    "REDUCE": _Index.call,
}
