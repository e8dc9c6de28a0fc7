"""Lossless compact storage of weights, so that the file has the bits that count.

Each tensor is stored in the smallest of four ways: as it is; sparse, a bitmap of what is not zero and those values; as
codes, up to 256 distinct values and for each element the number of its value, packed to as many bits as that takes; or
both, the codes of what is not zero. Bit patterns are kept, that of -0.0 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autocompress.errors import StoreError

State = Mapping[str, torch.Tensor]
Description = dict[str, dict[str, Any]]
"""Name of a tensor -> how it is stored; tensors that are stored as they are, are left out."""

_Array = np.ndarray[Any, np.dtype[Any]]
_PATTERNS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_MOST_VALUES = 256
_SMALLEST, _SAMPLE, _WORTHWHILE = 64, 1024, 0.95


@dataclass(frozen=True)
class _Stored:
    """A tensor in parts.

    Attributes:
        bitmap: one bit for each element, set where it is not zero; None: all elements are stored.
        codes: packed numbers of values; None: the values themselves are stored.
        values: bit patterns: of each element that is stored, or the distinct ones, ascending.
        count: how many elements are stored.
    """

    bitmap: _Array | None
    codes: _Array | None
    values: _Array
    count: int

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in (self.bitmap, self.codes, self.values) if part is not None)


def encode(state: State) -> tuple[State, Description]:
    """The tensors to be stored, and how they are stored.

    Args:
        state: a state dict, not changed.

    Returns:
        the state dict itself where nothing is worth it; else a dict of tensors, encoded ones in parts named
        `<name>::bitmap`, `<name>::codes` and `<name>::values`.
    """
    encoded: dict[str, torch.Tensor] = {}
    description: Description = {}
    for name, tensor in state.items():
        stored = _compact(tensor)
        if stored is None:
            encoded[name] = tensor
            continue
        parts = {"bitmap": stored.bitmap, "codes": stored.codes, "values": _signed(stored.values)}
        encoded |= {f"{name}::{part}": torch.from_numpy(array) for part, array in parts.items() if array is not None}
        description[name] = {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sparse": stored.bitmap is not None,
            "codes": stored.codes is not None,
            "count": stored.count,
        }
    return (encoded, description) if description else (state, {})


def decode(encoded: State, description: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """The state dict that `encode` was given, bit for bit; tensors that were encoded come last.

    Raises:
        StoreError: the parts do not fit their description.
    """
    parts = {f"{name}::{part}" for name in description for part in ("bitmap", "codes", "values")}
    state = {name: tensor for name, tensor in encoded.items() if name not in parts}
    for name, how in description.items():
        try:
            state[name] = _restored(encoded, name, how)
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError) as error:
            raise StoreError(f"the stored tensor {name!r} does not fit its description: {error}") from error
    return state


def _compact(tensor: torch.Tensor) -> _Stored | None:
    if tensor.numel() < _SMALLEST or tensor.element_size() not in _PATTERNS or tensor.is_sparse or tensor.is_quantized:
        return None
    if tensor.is_complex() or tensor.dtype is torch.bool:
        return None
    patterns = _patterns(tensor)
    stored = min(_ways(patterns), key=lambda way: way.bytes, default=None)
    return stored if stored is not None and stored.bytes < _WORTHWHILE * patterns.nbytes else None


def _ways(patterns: _Array) -> list[_Stored]:
    """The ways that may be worth it; sorting a large tensor for its values is not, where a sample has too many."""
    nonzero = patterns != 0
    count = int(np.count_nonzero(nonzero))
    ways = []
    bitmap = np.packbits(nonzero) if count < patterns.size else None
    left = patterns[nonzero] if bitmap is not None else patterns
    if bitmap is not None:
        ways.append(_Stored(bitmap, None, left, count))
    sample = left[:: max(1, left.size // _SAMPLE)]
    if left.size and np.unique(sample).size <= _MOST_VALUES:
        ways += _coded(left, bitmap) + (_coded(patterns, None) if bitmap is not None else [])
    return ways


def _coded(patterns: _Array, bitmap: _Array | None) -> list[_Stored]:
    values, numbers = np.unique(patterns, return_inverse=True)
    if values.size > _MOST_VALUES:
        return []
    return [_Stored(bitmap, _packed(numbers.ravel(), _bits(values.size)), values, patterns.size)]


def _bits(count: int) -> int:
    """Bits that tell so many values apart."""
    return max(1, math.ceil(math.log2(count)))


def _packed(numbers: _Array, bits: int) -> _Array:
    shifts = np.arange(bits, dtype=np.uint8)
    return np.packbits((numbers.astype(np.uint8)[:, None] >> shifts) & 1)


def _unpacked(codes: _Array, bits: int, count: int) -> _Array:
    wanted = math.ceil(count * bits / 8)
    if codes.size != wanted:
        raise ValueError(f"{count} codes of {bits} bits take {wanted} bytes; there are {codes.size}")
    flat = np.unpackbits(codes, count=count * bits).reshape(count, bits)
    numbers: _Array = (flat << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.int64)
    return numbers


def _restored(encoded: Mapping[str, torch.Tensor], name: str, how: Mapping[str, Any]) -> torch.Tensor:
    dtype, shape, count = getattr(torch, how["dtype"]), [int(size) for size in how["shape"]], int(how["count"])
    size = math.prod(shape)
    stored = encoded[f"{name}::values"].numpy().view(_PATTERNS[torch.empty((), dtype=dtype).element_size()])
    if how["codes"]:
        numbers = _unpacked(encoded[f"{name}::codes"].numpy(), _bits(stored.size), count)
        stored = stored[numbers]  # a code that is out of range raises IndexError
    if stored.shape != (count,):
        raise ValueError(f"{count} values must be stored; there are {stored.shape}")
    if how["sparse"]:
        stored = _scattered(encoded[f"{name}::bitmap"].numpy(), stored, size)
    if stored.size != size or min(shape, default=1) < 0:
        raise ValueError(f"a tensor of shape {shape} has {size} elements; there are {stored.size}")
    return torch.from_numpy(_signed(stored).copy()).view(dtype).reshape(shape)


def _scattered(bitmap: _Array, stored: _Array, size: int) -> _Array:
    if bitmap.size != math.ceil(size / 8):
        raise ValueError(f"the bitmap of {size} elements takes {math.ceil(size / 8)} bytes; there are {bitmap.size}")
    where = np.unpackbits(bitmap, count=size).astype(bool)
    if int(where.sum()) != stored.size:
        raise ValueError(f"the bitmap has {int(where.sum())} elements; {stored.size} are stored")
    full = np.zeros(size, dtype=stored.dtype)
    full[where] = stored
    return full


def _patterns(tensor: torch.Tensor) -> _Array:
    flat = tensor.detach().cpu().contiguous().flatten()
    signed = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    array: _Array = flat.view(signed).numpy()
    return array.view(_PATTERNS[tensor.element_size()])


def _signed(patterns: _Array) -> _Array:
    """As signed integers: not every version of torch knows the unsigned ones."""
    return patterns.view(f"i{patterns.itemsize}")
