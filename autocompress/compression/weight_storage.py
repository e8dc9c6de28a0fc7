"""Compact storage of weights: bitmaps of zeros, and codebooks of few distinct values with packed indices.

All arrays hold signed integers, which numpy sorts much faster than others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autocompress.compression.state_values import DTYPES, dtype_name, with_versions
from autocompress.errors import StoreError, short
from autocompress.plain_json import ANY_NAME, SHAPE, boolean, integer, record, word

_Array = np.ndarray[Any, np.dtype[Any]]

MOST_VALUES = 256
_SAMPLE, _SAMPLED_FILTERS = 2048, 4
_TABLE_BITS, _TABLES = 16, 16


def bits_for(count: int) -> int:
    """Bits that distinguish so many values, at least one."""
    return max(1, (count - 1).bit_length())


def pack(numbers: _Array, bits: int) -> _Array:
    """The lowest bits of each number, concatenated."""
    if bits == 8:
        return numbers.astype(np.uint8)
    shifts = np.arange(bits, dtype=np.uint8)
    return np.packbits((numbers.astype(np.uint8)[:, None] >> shifts) & 1, bitorder="little")


def unpack(codes: _Array, bits: int, count: int) -> _Array:
    """The inverse of `pack`."""
    if bits == 8:
        return codes
    flat = np.unpackbits(codes, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(flat, axis=1, bitorder="little")[:, 0]


def sorted_unique(patterns: _Array) -> _Array:
    """The distinct values, ascending, of a one-dimensional array."""
    ordered = np.sort(patterns)
    return np.concatenate([ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]])


def _indices(patterns: _Array, values: _Array) -> _Array:
    """The index of each pattern among the values; a hash table is ten times as fast as a binary search."""
    if patterns.size < 1 << _TABLE_BITS:
        return np.searchsorted(values, patterns).astype(np.uint8)
    random, kind = np.random.default_rng(0), patterns.dtype.type
    for _ in range(_TABLES):
        factor = kind(random.integers(1, np.iinfo(kind).max) | 1)
        places = _hash(values, factor)
        if np.unique(places).size == values.size:
            table = np.zeros(1 << _TABLE_BITS, dtype=np.uint8)
            table[places] = np.arange(values.size, dtype=np.uint8)
            return table[_hash(patterns, factor)]
    return np.searchsorted(values, patterns).astype(np.uint8)


def _hash(patterns: _Array, factor: Any) -> _Array:
    """Numbers below 2 ** 16: the highest bits of the product, which depend on all bits; short patterns as they are."""
    bits = 8 * patterns.itemsize
    if bits <= _TABLE_BITS:
        return patterns.view(f"u{patterns.itemsize}")
    hashed: _Array = ((patterns * factor) >> (bits - _TABLE_BITS)) & ((1 << _TABLE_BITS) - 1)
    return hashed


State = Mapping[str, torch.Tensor]
Description = dict[str, dict[str, Any]]
"""Name of a tensor -> how it is stored; tensors that are stored as they are, are left out."""

_PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the integers of that size; signed, as not every version of torch knows the others."""
_PARTS = ("bitmap", "codes", "values")
_SMALLEST, _WORTHWHILE = 64, 0.95
_MOST_EXPANSION = 64
STORED = record(
    shape=SHAPE,
    dtype=word(*(name for name, dtype in DTYPES.items() if dtype.itemsize in _PATTERNS)),
    sparse=boolean,
    codebooks=integer(0, 1 << 32),
    count=integer(0, 1 << 48),
)
"""How a tensor is stored."""


@dataclass(frozen=True)
class _Encoding:
    """The parts of an encoded tensor.

    Attributes:
        bitmap: one bit per element, set if it is not zero; None: all elements are stored.
        codes: packed indices of values; None: the values themselves are stored.
        values: bit patterns of each stored element, or the distinct ones, of shape (codebooks, values of each).
        count: number of stored elements.
    """

    bitmap: _Array | None
    codes: _Array | None
    values: _Array
    count: int

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in (self.bitmap, self.codes, self.values) if part is not None)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The existing parts, flattened, by name."""
        parts = zip(_PARTS, (self.bitmap, self.codes, self.values), strict=True)
        return {name: torch.from_numpy(part.ravel()) for name, part in parts if part is not None}

    def describe(self, tensor: torch.Tensor) -> dict[str, Any]:
        """What `decode` needs besides the parts."""
        return {
            "shape": list(tensor.shape),
            "dtype": dtype_name(tensor.dtype),
            "sparse": self.bitmap is not None,
            "codebooks": 0 if self.codes is None else self.values.shape[0],
            "count": self.count,
        }


def encode(state: State) -> tuple[State, Description]:
    """The tensors to store, and the description of how they are stored.

    Returns:
        the state dict itself if nothing can be made smaller; else a dict in which encoded tensors are parts named
        `<name>::bitmap`, `<name>::codes` and `<name>::values`. Names of a shared tensor share its parts. A tensor whose
        name collides with a part's, or is not valid JSON, is stored as it is.
    """
    encoded: dict[str, torch.Tensor] = {}
    description: Description = {}
    seen: dict[Any, tuple[dict[str, torch.Tensor], dict[str, Any]] | None] = {
        _identity(tensor): None for name, tensor in state.items() if not _can_be_encoded(name, state)
    }
    for name, tensor in state.items():
        key = _identity(tensor)
        if key not in seen:
            stored = _encode_tensor(tensor)
            seen[key] = None if stored is None else (stored.tensors(), stored.describe(tensor))
        found = seen[key]
        if found is None:
            encoded[name] = tensor
        else:
            encoded |= {f"{name}::{part}": value for part, value in found[0].items()}
            description[name] = found[1]
    return (with_versions(state, encoded), description) if description else (state, {})


def decode(encoded: State, description: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The inverse of `encode`, bit for bit; encoded tensors come last.

    The description is untrusted: decoded tensors take at most 64 times the bytes of the file's, which is one bit for an
    element of eight bytes.

    Raises:
        StoreError: the parts do not fit their description.
    """
    made: dict[Any, torch.Tensor] = {}
    storages = [tensor.untyped_storage() for tensor in encoded.values() if isinstance(tensor, torch.Tensor)]
    in_file = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())  # shared storages count once
    state, left, room = {}, dict(encoded), _MOST_EXPANSION * in_file
    for name, how in description.items():
        try:
            stored = _take_parts(left, name, how)
            if stored.key not in made:
                room = _reserved(room, stored.size)
                made[stored.key] = stored.restored()
        except (StoreError, ValueError, IndexError, RuntimeError) as error:
            raise StoreError(f"the stored tensor {short(name)} does not fit its description: {error}") from error
        state[name] = made[stored.key]
    if left.keys() & state.keys():
        raise StoreError(f"a tensor must be stored one way; {short(min(left.keys() & state.keys()))} is twice")
    return with_versions(encoded, left | state)


def _can_be_encoded(name: str, state: State) -> bool:
    if any(f"{name}::{part}" in state for part in _PARTS):
        return False
    try:
        ANY_NAME(name, "a name")
    except StoreError:
        return False
    return True


def _identity(tensor: Any) -> Any:
    """A key that is equal for all names of a shared tensor."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()


def _encode_tensor(tensor: Any) -> _Encoding | None:
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
        return None
    if tensor.numel() < _SMALLEST or tensor.element_size() not in _PATTERNS or tensor.dtype is torch.bool:
        return None
    flat = tensor.detach().cpu().contiguous().flatten()
    patterns: _Array = flat.view(_PATTERNS[tensor.element_size()]).numpy()
    return _smallest(patterns, tensor.shape[0] if tensor.dim() > 1 else 1)


def _smallest(patterns: _Array, filters: int) -> _Encoding | None:
    """The smallest encoding; None: store as it is."""
    nonzero = patterns != 0
    count = int(np.count_nonzero(nonzero))
    ways = [_encode_codebook(patterns, None)]
    if count < patterns.size:
        bitmap, left = np.packbits(nonzero, bitorder="little"), patterns[nonzero]
        ways += [_Encoding(bitmap, None, left, count), _encode_codebook(left, bitmap)]
    least = min((way.bytes for way in ways if way is not None), default=patterns.nbytes)
    ways.append(_encode_codebooks(patterns.reshape(filters, -1), min(least, _WORTHWHILE * patterns.nbytes)))
    found = [way for way in ways if way is not None and way.bytes < _WORTHWHILE * patterns.nbytes]
    return min(found, key=lambda way: way.bytes, default=None)


def _encode_codebook(patterns: _Array, bitmap: _Array | None) -> _Encoding | None:
    """With one codebook; None if there are more than 256 values, which a sample often shows, or no element."""
    sample = patterns[:: max(1, patterns.size // _SAMPLE)]
    if not patterns.size or np.unique(sample).size > MOST_VALUES:
        return None
    values = sorted_unique(patterns)
    if values.size > MOST_VALUES:
        return None
    return _Encoding(bitmap, pack(_indices(patterns, values), bits_for(values.size)), values[None], patterns.size)


def _encode_codebooks(patterns: _Array, limit: float) -> _Encoding | None:
    """With a codebook for each row, padded with its last value; None if a sample of the rows predicts over `limit`."""
    filters, size = patterns.shape
    step = max(1, filters // _SAMPLED_FILTERS)
    most = max((sorted_unique(each).size for each in patterns[::step]), default=0)
    expected = filters * (most * patterns.itemsize + size * bits_for(most) / 8)
    if filters < 2 or most > MOST_VALUES or expected >= limit:
        return None
    found = [sorted_unique(each) for each in patterns]
    most = max(values.size for values in found)
    if most > MOST_VALUES:
        return None
    table = np.stack([np.pad(values, (0, most - values.size), mode="edge") for values in found])
    numbers = np.concatenate([_indices(*each) for each in zip(patterns, found, strict=True)])
    return _Encoding(None, pack(numbers, bits_for(most)), table, patterns.size)


@dataclass(frozen=True)
class _EncodedTensor:
    """A tensor to decode; the sizes of its parts match the description."""

    parts: Mapping[str, _Array]
    shape: tuple[int, ...]
    dtype: torch.dtype
    codebooks: int
    count: int
    key: Any

    @property
    def size(self) -> int:
        """Bytes of the decoded tensor."""
        return math.prod(self.shape) * self.dtype.itemsize

    def restored(self) -> torch.Tensor:
        stored = self.parts["values"]
        if self.codebooks:
            table = stored.reshape(self.codebooks, -1)
            numbers = unpack(self.parts["codes"], bits_for(table.shape[1]), self.count).reshape(self.codebooks, -1)
            stored = np.take_along_axis(table, numbers.astype(np.intp), axis=1).ravel()  # or IndexError
        if "bitmap" in self.parts:
            stored = _scatter(self.parts["bitmap"], stored, math.prod(self.shape))
        return torch.from_numpy(stored.copy()).view(self.dtype).reshape(self.shape)


def _take_parts(left: dict[str, Any], name: str, how: Any) -> _EncodedTensor:
    """Remove a tensor's parts from the file's tensors, and check their sizes against the description."""
    how = STORED(how, "it")
    dtype, count, size, books = DTYPES[how["dtype"]], how["count"], math.prod(how["shape"]), how["codebooks"]
    wanted = ["values", *(["codes"] if books else []), *(["bitmap"] if how["sparse"] else [])]
    missing = [part for part in wanted if not isinstance(left.get(f"{name}::{part}"), torch.Tensor)]
    if missing:
        raise ValueError(f"{', '.join(missing)} must be present")
    tensors = {part: left.pop(f"{name}::{part}") for part in wanted}
    for part, tensor in tensors.items():
        kind = _PATTERNS.get(dtype.itemsize) if part == "values" else torch.uint8
        if tensor.dtype != kind or tensor.dim() != 1 or not tensor.is_contiguous():
            raise ValueError(f"{part} must be one row of {kind}; they are {tuple(tensor.shape)} of {tensor.dtype}")
    _require_sizes({part: tensor.numel() for part, tensor in tensors.items()}, books, count, size)
    key = (*(tensor.data_ptr() for tensor in tensors.values()), *wanted, *how["shape"], dtype, count, books)
    return _EncodedTensor(
        {part: tensor.numpy() for part, tensor in tensors.items()}, tuple(how["shape"]), dtype, books, count, key
    )


def _require_sizes(parts: Mapping[str, int], books: int, count: int, size: int) -> None:
    values = parts["values"]
    if books and (values % books or count % books or not 0 < values // books <= MOST_VALUES):
        raise ValueError(f"{values} values of {count} codes cannot be {books} codebooks of at most {MOST_VALUES}")
    expected = {"bitmap": math.ceil(size / 8)} if "bitmap" in parts else {}
    expected |= {"codes": math.ceil(count * bits_for(values // books) / 8)} if books else {"values": count}
    wrong = [f"{part} take {most}; there are {parts[part]}" for part, most in expected.items() if parts[part] != most]
    if wrong:
        raise ValueError(f"the parts of {count} elements must have their sizes: {', '.join(wrong)}")
    if "bitmap" not in parts and count != size:
        raise ValueError(f"a tensor of {size} elements must have them all; {count} are stored")


def _reserved(room: int, size: int) -> int:
    if size > room:
        raise ValueError(f"together they would take more than {_MOST_EXPANSION} times the file's bytes")
    return room - size


def _scatter(bitmap: _Array, stored: _Array, size: int) -> _Array:
    where = np.unpackbits(bitmap, count=size, bitorder="little").astype(bool)
    if int(where.sum()) != stored.size:
        raise ValueError(f"the bitmap has {int(where.sum())} elements; {stored.size} are stored")
    full = np.zeros(size, dtype=stored.dtype)
    full[where] = stored
    return full
