"""Reader of the uncompressed archives that `torch.save` writes; imports and calls nothing that they name."""

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

from autocompress.compression.state_values import DTYPES, check_state
from autocompress.errors import StoreError, first_line, short

INDEX = "data.pkl"
_TENSORS = "data/"
_ALIGNMENT = 16
"""Bytes of the largest number."""
_HEADER = struct.Struct("<4s22xHH")
"""Of a record: signature, length of its name, length of what follows the name."""


class _File:
    """The file interface that zipfile needs, over a memoryview."""

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
    """The records of an archive in a writable buffer; tensors are views of it, so that all are no larger than the file.

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
        """The content of a record. Its checksum is not checked: that of the whole file has been."""
        entry = self._entries.get(name)
        if entry is None or entry.file_size > most:
            raise StoreError(f"it must have a record {short(name)} of at most {most} bytes")
        signature, name_length, extra_length = _HEADER.unpack_from(self._data, entry.header_offset)
        start = entry.header_offset + _HEADER.size + name_length + extra_length
        found = self._data[start : start + entry.file_size]
        if signature != b"PK\x03\x04" or len(found) != entry.file_size:
            raise StoreError(f"record {short(name)} must be complete")
        return found

    def tensor(self, key: str, size: int) -> torch.Tensor:
        """The bytes of a tensor record, which must have the stated size."""
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


_MOST_INDEX_BYTES, _MOST_INSTRUCTIONS, _MOST_DIMENSIONS = 1 << 26, 1 << 21, 32
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
"""Allowed names in the index; none is imported or called."""


@dataclass(frozen=True)
class _Name:
    text: str


@dataclass
class _Storage:
    data: torch.Tensor
    dtype: torch.dtype | None
    flags: torch.Tensor | None = None

    def of(self, dtype: torch.dtype) -> torch.Tensor:
        """The values; bytes other than 0 and 1 are true. All boolean views share one converted copy."""
        if dtype is not torch.bool:
            return self.data.view(dtype)
        if self.flags is None:
            self.flags = self.data.ne(0)
        return self.flags


def read_archive(data: memoryview) -> OrderedDict[str, Any]:
    """The dictionary that `torch.save` wrote: dense CPU tensors and plain values, by name.

    Args:
        data: a whole file, writable; the tensors are views of it.

    Raises:
        StoreError: it is something else, or inconsistent.
    """
    try:
        return check_state(_Index(Records(data)).read())
    except StoreError:
        raise
    except Exception as error:  # raised by zipfile and pickletools
        raise StoreError(f"it is not an archive as torch.save writes it: {first_line(error)}") from error


@dataclass
class _Index:
    """An interpreter of the pickle instructions that a dictionary of tensors needs."""

    records: Records
    stack: list[Any] = field(default_factory=list)
    marks: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, _Storage] = field(default_factory=dict)

    def read(self) -> dict[str, Any]:
        instructions = _instructions(self.records.bytes(INDEX, _MOST_INDEX_BYTES))
        for name, argument in itertools.islice(instructions, _MOST_INSTRUCTIONS):
            if name == "STOP":
                (state,) = self.stack
                if not isinstance(state, dict):
                    raise StoreError("it must hold a dictionary with string keys")
                return state
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name](argument))
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
        raise StoreError(f"its index must end after at most {_MOST_INSTRUCTIONS} instructions")

    def memorize(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def name(self, text: str) -> None:
        if text not in _KNOWN:
            raise StoreError(f"its index must not name {short(text)}")
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
        if type(target) not in (dict, OrderedDict) or len(items) % 2 or not all(type(key) is str for key in items[::2]):
            raise StoreError("its index must fill dictionaries with string keys")
        target.update(zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise StoreError("its index must append to lists")
        self.stack[-1].extend(items)

    def build(self, _: Any) -> None:
        """The only attribute allowed: the module versions of a state dict."""
        attributes, target = self.stack.pop(), self.stack[-1]
        if type(target) is not OrderedDict or type(attributes) is not dict or attributes.keys() != {"_metadata"}:
            raise StoreError("its index must set the versions of state dicts and no other attribute")
        vars(target).update(attributes)

    def find(self, _: Any) -> None:
        """A storage: a record of the archive, read once."""
        what, kind, key, _location, count = self.stack.pop()
        if what != "storage" or type(kind) is not _Name or type(key) is not str or type(count) is not int:
            raise StoreError("its index must name storages as torch does")
        dtype = _STORAGES.get(kind.text.removeprefix("torch "))
        if dtype is None and kind.text != "torch.storage UntypedStorage":
            raise StoreError(f"its index must not take {kind.text!r} for a storage")
        if key not in self.storages:
            self.storages[key] = _Storage(self.records.tensor(key, count * (dtype.itemsize if dtype else 1)), dtype)
        self.stack.append(self.storages[key])

    def call(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        if type(what) is not _Name or type(arguments) is not tuple:
            raise StoreError("its index must not call that")
        if what.text == "collections OrderedDict" and not arguments:
            self.stack.append(OrderedDict())
        elif what.text == "torch._utils _rebuild_tensor_v2":
            storage, offset, shape, strides, _grad, hooks, *more = arguments
            self.stack.append(_tensor(storage, storage.dtype, offset, shape, strides, [hooks, *more]))
        elif what.text == "torch._utils _rebuild_tensor_v3":
            storage, offset, shape, strides, _grad, hooks, kind, *more = arguments
            dtype = DTYPES.get(kind.text.removeprefix("torch "))
            self.stack.append(_tensor(storage, dtype, offset, shape, strides, [hooks, *more]))
        else:
            raise StoreError(f"its index must not call {what.text!r}")


def _instructions(data: memoryview) -> Iterator[tuple[str, Any]]:
    """Names and arguments of allowed instructions; Python would import decoders for the texts of others."""
    file = io.BytesIO(data)
    while code := file.read(1):
        found = _OPCODES.get(code)
        if found is None:
            raise StoreError(f"its index must not have the instruction {code!r}")
        yield found.name, found.arg.reader(file) if found.arg is not None else None


def _tensor(
    storage: _Storage, dtype: torch.dtype | None, offset: Any, shape: Any, strides: Any, more: list[Any]
) -> torch.Tensor:
    """A view within a storage; `more` (hooks and flags) must be empty."""
    numbers = [offset, *shape, *strides]
    if not all(type(number) is int and 0 <= number < 1 << 48 for number in numbers) or any(more) or dtype is None:
        raise StoreError("its tensors must be plain ones")
    if len(shape) != len(strides) or len(shape) > _MOST_DIMENSIONS or storage.data.numel() % dtype.itemsize:
        raise StoreError("its tensors must have a shape and strides")
    held, wanted = storage.data.numel() // dtype.itemsize, math.prod(shape)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if wanted else 0
    if wanted > held or last >= max(held, 1):
        raise StoreError(f"a tensor of {wanted} elements must be within its storage of {held}")
    return storage.of(dtype).as_strided(shape, strides, offset if wanted else 0)


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
_OPCODES = {
    code.code.encode("latin-1"): code
    for code in pickletools.opcodes
    if code.name in ("PROTO", "STOP", *_CONSTANTS, *_ACTIONS)
}
"""The instructions by the bytes that they begin with."""
