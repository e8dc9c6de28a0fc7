"""Lossless compact storage of weights, so that the file has the bits that count.

Each tensor is stored in the smallest of these ways: as it is; sparse, a bitmap of what is not zero and those values; as
codes, up to 256 distinct values and for each element the number of its value, packed to as many bits as that takes; as
codes with distinct values of each filter; or sparse, with codes of what is not zero. Bit patterns are kept, that of
-0.0 too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autocompress.compress.shipping.codes import bits_for, codebook, codebooks, pack, unpack
from autocompress.errors import StoreError

State = Mapping[str, torch.Tensor]
Description = dict[str, dict[str, Any]]
"""Name of a tensor -> how it is stored; tensors that are stored as they are, are left out."""

_Array = np.ndarray[Any, np.dtype[Any]]
_PATTERNS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Bytes of an element -> the integers of that size; signed, as not every version of torch knows the others."""
_PARTS = ("bitmap", "codes", "values")
_SMALLEST, _WORTHWHILE = 64, 0.95


@dataclass(frozen=True)
class _Stored:
    """A tensor in parts.

    Attributes:
        bitmap: one bit for each element, set where it is not zero; None: all elements are stored.
        codes: packed numbers of values; None: the values themselves are stored.
        values: bit patterns: of each element that is stored, or the distinct ones, of shape (codebooks, values of one).
        count: how many elements are stored.
    """

    bitmap: _Array | None
    codes: _Array | None
    values: _Array
    count: int

    @property
    def bytes(self) -> int:
        return sum(part.nbytes for part in (self.bitmap, self.codes, self.values) if part is not None)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The parts that there are, flat, by name."""
        parts = zip(_PARTS, (self.bitmap, self.codes, self.values), strict=True)
        return {name: torch.from_numpy(part.ravel()) for name, part in parts if part is not None}

    def describe(self, tensor: torch.Tensor) -> dict[str, Any]:
        """What `decode` needs to know beside the parts."""
        return {
            "shape": list(tensor.shape),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "sparse": self.bitmap is not None,
            "codebooks": 0 if self.codes is None else self.values.shape[0],
            "count": self.count,
        }


def encode(state: State) -> tuple[State, Description]:
    """The tensors to be stored, and how they are stored.

    Args:
        state: a state dict, not changed.

    Returns:
        the state dict itself where nothing is worth it; else a dict of tensors, encoded ones in parts named
        `<name>::bitmap`, `<name>::codes` and `<name>::values`. Names of one tensor share its parts.
    """
    encoded: dict[str, torch.Tensor] = {}
    description: Description = {}
    seen: dict[Any, tuple[dict[str, torch.Tensor], dict[str, Any]] | None] = {}
    for name, tensor in state.items():
        key = _identity(tensor)
        if key not in seen:
            stored = _compact(tensor)
            seen[key] = None if stored is None else (stored.tensors(), stored.describe(tensor))
        found = seen[key]
        if found is None:
            encoded[name] = tensor
        else:
            encoded |= {f"{name}::{part}": value for part, value in found[0].items()}
            description[name] = found[1]
    return (encoded, description) if description else (state, {})


def decode(encoded: State, description: Mapping[str, Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """The state dict that `encode` was given, bit for bit; tensors that were encoded come last.

    Raises:
        StoreError: the parts do not fit their description.
    """
    parts = {f"{name}::{part}" for name in description for part in _PARTS}
    state = {name: tensor for name, tensor in encoded.items() if name not in parts}
    for name, how in description.items():
        try:
            state[name] = _restored(encoded, name, how)
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError, AttributeError) as error:
            raise StoreError(f"the stored tensor {name!r} does not fit its description: {error}") from error
    return state


def _identity(tensor: Any) -> Any:
    """Equal for the names of a shared tensor."""
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized:
        return id(tensor)
    return tensor.data_ptr(), tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()


def _compact(tensor: Any) -> _Stored | None:
    if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
        return None
    if tensor.numel() < _SMALLEST or tensor.element_size() not in _PATTERNS or tensor.dtype is torch.bool:
        return None
    flat = tensor.detach().cpu().contiguous().flatten()
    patterns: _Array = flat.view(_PATTERNS[tensor.element_size()]).numpy()
    return _smallest(patterns, tensor.shape[0] if tensor.dim() > 1 else 1)


def _smallest(patterns: _Array, filters: int) -> _Stored | None:
    """The smallest of all ways; None: as it is."""
    nonzero = patterns != 0
    count = int(np.count_nonzero(nonzero))
    ways = [_coded(patterns, None)]
    if count < patterns.size:
        bitmap, left = np.packbits(nonzero, bitorder="little"), patterns[nonzero]
        ways += [_Stored(bitmap, None, left, count), _coded(left, bitmap)]
    least = min((way.bytes for way in ways if way is not None), default=patterns.nbytes)
    ways.append(_coded_by_filter(patterns.reshape(filters, -1), min(least, _WORTHWHILE * patterns.nbytes)))
    found = [way for way in ways if way is not None and way.bytes < _WORTHWHILE * patterns.nbytes]
    return min(found, key=lambda way: way.bytes, default=None)


def _coded(patterns: _Array, bitmap: _Array | None) -> _Stored | None:
    found = codebook(patterns)
    if found is None:
        return None
    values, numbers = found
    return _Stored(bitmap, pack(numbers, bits_for(values.size)), values[None], patterns.size)


def _coded_by_filter(patterns: _Array, limit: float) -> _Stored | None:
    found = codebooks(patterns, limit)
    if found is None:
        return None
    values, numbers = found
    return _Stored(None, pack(numbers.ravel(), bits_for(values.shape[1])), values, patterns.size)


def _restored(encoded: State, name: str, how: Mapping[str, Any]) -> torch.Tensor:
    shape, dtype, count = [int(size) for size in how["shape"]], getattr(torch, how["dtype"]), int(how["count"])
    size = math.prod(shape)
    values = encoded[f"{name}::values"]
    wanted = _PATTERNS[torch.empty((), dtype=dtype).element_size()]
    if values.dtype != wanted or values.dim() != 1:
        raise ValueError(f"values must be one row of {wanted}; they are {tuple(values.shape)} of {values.dtype}")
    stored: _Array = values.numpy()
    if how["codebooks"]:
        stored = _looked_up(stored, encoded[f"{name}::codes"].numpy(), int(how["codebooks"]), count)
    if stored.size != count:
        raise ValueError(f"{count} values must be stored; there are {stored.size}")
    if how["sparse"]:
        stored = _scattered(encoded[f"{name}::bitmap"].numpy(), stored, size)
    if stored.size != size or min(shape, default=1) < 0:
        raise ValueError(f"a tensor of shape {shape} has {size} elements; there are {stored.size}")
    return torch.from_numpy(stored.copy()).view(dtype).reshape(shape)


def _looked_up(values: _Array, codes: _Array, books: int, count: int) -> _Array:
    table = values.reshape(books, -1)
    numbers = unpack(codes, bits_for(table.shape[1]), count)
    found: _Array = np.take_along_axis(table, numbers.reshape(books, -1).astype(np.intp), axis=1)  # or IndexError
    return found.ravel()


def _scattered(bitmap: _Array, stored: _Array, size: int) -> _Array:
    if bitmap.size != math.ceil(size / 8):
        raise ValueError(f"the bitmap of {size} elements takes {math.ceil(size / 8)} bytes; there are {bitmap.size}")
    where = np.unpackbits(bitmap, count=size, bitorder="little").astype(bool)
    if int(where.sum()) != stored.size:
        raise ValueError(f"the bitmap has {int(where.sum())} elements; {stored.size} are stored")
    full = np.zeros(size, dtype=stored.dtype)
    full[where] = stored
    return full
