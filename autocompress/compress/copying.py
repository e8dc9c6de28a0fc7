"""Copies of models, made in half the time that `copy.deepcopy` takes for their many small parts."""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

_Module = TypeVar("_Module", bound=nn.Module)

_ATOMS = (int, float, bool, str, bytes, type(None), type)
_EMPTY = (dict, OrderedDict, list, set)
_COMPILED = "_compiled_call_impl"
"""What `nn.Module.__getstate__` leaves out."""
_RESTORING = (nn.Module.__setstate__, _ConvNd.__setstate__)
_OWN_WAYS = ("__deepcopy__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__reduce__", "__reduce_ex__")
"""Methods by which a class can have a say in how it is copied."""
_plain: WeakKeyDictionary[type[Any], bool] = WeakKeyDictionary()


def copied(model: _Module, memo: dict[int, Any] | None = None) -> _Module:
    """What `copy.deepcopy` gives.

    Args:
        model: not changed.
        memo: as `copy.deepcopy` takes it: from the id of a part of the model to what stands for it in the copy.
    """
    return cast(_Module, _copied(model, {} if memo is None else memo))


def _copied(module: Any, memo: dict[int, Any]) -> Any:
    known = memo.get(id(module))
    if known is not None or module is None:
        return known
    kind: Any = type(module)
    if not _is_plain(kind):
        return copy.deepcopy(module, memo)
    twin = memo[id(module)] = kind.__new__(kind)
    attributes = vars(twin)
    for name, value in vars(module).items():
        if name == "_modules":
            attributes[name] = type(value)((key, _copied(child, memo)) for key, child in value.items())
        elif name != _COMPILED:
            attributes[name] = _value(value, memo)
    return twin


def _value(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind is tuple and all(type(item) in _ATOMS for item in value):
        return value
    return kind() if kind in _EMPTY and not value else copy.deepcopy(value, memo)


def _is_plain(kind: Any) -> bool:
    """Whether copying the attributes is all that a module's class wants done."""
    if kind not in _plain:
        _plain[kind] = _wants_no_more(kind)
    return _plain[kind]


def _wants_no_more(kind: Any) -> bool:
    slots: list[str] = copyreg._slotnames(kind)  # type: ignore[attr-defined]
    bases = [base for base in kind.__mro__ if base not in (nn.Module, object)]
    ways = [vars(base)[name] for name in _OWN_WAYS for base in bases if name in vars(base)]
    return bool(kind.__setstate__ in _RESTORING and not slots) and all(map(_is_torchs, ways))


def _is_torchs(way: Any) -> bool:
    """Whether it is what a parametrization gives a class, which copies attributes too."""
    return getattr(way, "__module__", None) == parametrize.__name__
