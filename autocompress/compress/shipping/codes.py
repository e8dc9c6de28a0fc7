"""Few distinct values: which they are, the number of each element's value, and these numbers packed to bits.

All arrays hold signed integers, which numpy sorts much faster than others.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_Array = np.ndarray[Any, np.dtype[Any]]

MOST_VALUES = 256
_SAMPLE, _SAMPLED_FILTERS = 2048, 4
_TABLE_BITS, _TABLES = 16, 16


def codebook(patterns: _Array) -> tuple[_Array, _Array] | None:
    """The distinct values, ascending, and for each element the number of its value; None: more than 256, or no element.

    Args:
        patterns: one-dimensional. Of many distinct values a sample tells, so that dense tensors cost next to nothing.
    """
    sample = patterns[:: max(1, patterns.size // _SAMPLE)]
    if not patterns.size or np.unique(sample).size > MOST_VALUES:
        return None
    values = distinct(patterns)
    return None if values.size > MOST_VALUES else (values, _numbers(patterns, values))


def codebooks(patterns: _Array, limit: float) -> tuple[_Array, _Array] | None:
    """For each filter its distinct values, ascending, the last repeated; and the numbers of its elements' values.

    Args:
        patterns: of shape (filters, elements).
        limit: in bytes; None is returned where a sample of the filters tells that they would take more.
    """
    filters, size = patterns.shape
    step = max(1, filters // _SAMPLED_FILTERS)
    most = max((distinct(each).size for each in patterns[::step]), default=0)
    expected = filters * (most * patterns.itemsize + size * bits_for(most) / 8)
    if filters < 2 or most > MOST_VALUES or expected >= limit:
        return None
    found = [distinct(each) for each in patterns]
    most = max(values.size for values in found)
    if most > MOST_VALUES:
        return None
    table = np.stack([np.pad(values, (0, most - values.size), mode="edge") for values in found])
    return table, np.stack([_numbers(*each) for each in zip(patterns, found, strict=True)])


def bits_for(count: int) -> int:
    """Bits that tell so many values apart, at least one."""
    return max(1, math.ceil(math.log2(count))) if count > 1 else 1


def pack(numbers: _Array, bits: int) -> _Array:
    """The lowest bits of each number, one after the other."""
    if bits == 8:
        return numbers.astype(np.uint8)
    shifts = np.arange(bits, dtype=np.uint8)
    return np.packbits((numbers.astype(np.uint8)[:, None] >> shifts) & 1, bitorder="little")


def unpack(codes: _Array, bits: int, count: int) -> _Array:
    """The numbers that `pack` was given.

    Raises:
        ValueError: not the number of bytes that so many numbers take.
    """
    wanted = math.ceil(count * bits / 8)
    if codes.size != wanted:
        raise ValueError(f"{count} codes of {bits} bits take {wanted} bytes; there are {codes.size}")
    if bits == 8:
        return codes
    flat = np.unpackbits(codes, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(flat, axis=1, bitorder="little")[:, 0]


def distinct(patterns: _Array) -> _Array:
    """The distinct values, ascending, of a one-dimensional array."""
    ordered = np.sort(patterns)
    return np.concatenate([ordered[:1], ordered[1:][ordered[1:] != ordered[:-1]]])


def _numbers(patterns: _Array, values: _Array) -> _Array:
    """Where each pattern is among the values, all of which are there; a hash table is ten times as fast as a search."""
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
    """Numbers below 2 ** 16: the highest bits of the product, which depend on all bits; short patterns themselves."""
    bits = 8 * patterns.itemsize
    if bits <= _TABLE_BITS:
        return patterns.view(f"u{patterns.itemsize}")
    hashed: _Array = ((patterns * factor) >> (bits - _TABLE_BITS)) & ((1 << _TABLE_BITS) - 1)
    return hashed
