"""Allowed content of a checkpoint's state dict: dense tensors, and plain values that modules keep as extra state.

Writing and reading use the same check, so that everything written can be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from autocompress.errors import StoreError, short
from autocompress.plain_json import MOST_ITEMS

_NAMES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz complex128 complex64 "
    "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
)
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMES.split() if hasattr(torch, name)}
"""The element types that tensors may have, by name, as far as this version of torch has them."""
MOST_BITS = 2000
"""Of a whole number; Python's largest generators of random numbers have states of many smaller ones."""
_DEEPEST = 16
_METADATA = "_metadata"
"""The attribute by which a state dict has the versions of its modules, which may convert what an older one wrote."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name of an element type."""
    return str(dtype).removeprefix("torch.")


def prepare_state(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Prepare a state dict for writing: each tensor dense, with memory of its own for each element.

    Raises:
        StoreError: it has something else than dense tensors and plain values by name.
    """
    return _state(state, _dense)


def check_state(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Check a state dict that was read from an archive.

    Raises:
        StoreError: it has values that `prepare_state` does not allow.
    """
    return _state(state, lambda tensor, _: tensor)


def with_versions(state: Mapping[str, Any], tensors: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Other tensors with the module versions (`_metadata`) of a state dict."""
    found = OrderedDict(tensors)
    versions = getattr(state, _METADATA, None)
    if versions is not None:
        vars(found)[_METADATA] = versions
    return found


def _state(state: Mapping[str, Any], tensor: Callable[[torch.Tensor, str], torch.Tensor]) -> OrderedDict[str, Any]:
    walk = _ValueCheck(tensor)
    found = OrderedDict((_text(name, "the state dict"), walk.value(value, name, 0)) for name, value in state.items())
    walk.copy_versions(found, state, "the state dict", 0)
    return found


class _ValueCheck:
    """Checks the values of one state dict and counts them, since a container may occur in many places."""

    def __init__(self, tensor: Callable[[torch.Tensor, str], torch.Tensor]) -> None:
        self._tensor, self._left = tensor, MOST_ITEMS

    def value(self, value: Any, where: str, depth: int) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value, where)
        self._left -= 1
        if self._left < 0:
            raise StoreError(f"a state dict must have at most {MOST_ITEMS} plain values; {short(where)} has one more")
        kind = type(value)
        if value is None or kind in (bool, float, str):
            return value
        if kind is int:
            return _integer(value, where)
        if kind not in (tuple, list, dict, OrderedDict):
            raise StoreError(
                f"{short(where)} must be a tensor or plain values (numbers, texts, None, and tuples, lists and "
                f"dictionaries of them); it has a {kind.__qualname__}"
            )
        if depth == _DEEPEST:
            raise StoreError(f"{short(where)} must be nested at most {_DEEPEST} deep")
        if kind in (tuple, list):
            return kind(self.value(each, f"{where}[{index}]", depth + 1) for index, each in enumerate(value))
        found = kind((_text(key, where), self.value(each, f"{where}.{key}", depth + 1)) for key, each in value.items())
        self.copy_versions(found, value, where, depth)
        return found

    def copy_versions(self, found: Any, source: Any, where: str, depth: int) -> None:
        """Copy the module versions if the source is a state dict."""
        versions = getattr(source, _METADATA, None)
        if versions is None:
            return
        if not isinstance(versions, dict) or not all(isinstance(each, dict) for each in versions.values()):
            raise StoreError(f"the versions of the modules of {short(where)} must be dictionaries with string keys")
        vars(found)[_METADATA] = self.value(versions, f"{where}.{_METADATA}", depth + 1)


def _dense(value: torch.Tensor, name: str) -> torch.Tensor:
    if is_lazy(value):
        raise StoreError(f"a checkpoint's tensors must have a shape; {short(name)} has none yet: run the model once")
    tensor = value.detach()
    if type(tensor) is not torch.Tensor or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise StoreError(
            f"a checkpoint holds dense tensors and plain values; {short(name)} is {_kind_of_tensor(tensor, value)}"
        )
    if dtype_name(tensor.dtype) not in DTYPES:
        raise StoreError(f"a checkpoint's tensors must be {', '.join(DTYPES)}; {short(name)} is {tensor.dtype}")
    tensor = tensor.resolve_conj().resolve_neg()
    return tensor.contiguous() if tensor.nbytes > tensor.untyped_storage().nbytes() else tensor


def _kind_of_tensor(tensor: torch.Tensor, value: torch.Tensor) -> str:
    if tensor.is_quantized:
        return f"quantized ({tensor.dtype})"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout})"
    return "on the meta device, without values" if tensor.is_meta else f"a {type(value).__qualname__}"


def _text(key: Any, where: str) -> str:
    if type(key) is not str:
        raise StoreError(f"a key of {short(where)} must be a string; got {short(key)}")
    return key


def _integer(value: int, where: str) -> int:
    if value.bit_length() > MOST_BITS:
        raise StoreError(f"{short(where)} must have whole numbers of at most {MOST_BITS} bits; it has a longer one")
    return value
