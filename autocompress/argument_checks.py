"""Check the arguments of public functions against their annotations when they are called."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, ParamSpec, TypeVar

from autocompress.errors import ConfigError, short
from autocompress.typed_fields import Rule

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")

AT_LEAST_1 = Rule("a whole number >= 1", lambda number: number >= 1)


@dataclass(frozen=True)
class _Kind:
    """The values that an annotation allows."""

    rule: str  # in words
    fits: Callable[[Any], bool]  # whether a value is that
    remedy: Callable[[Any], str] = lambda _: ""  # how to convert a value that is not allowed; empty: unknown


def checked_arguments(function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
    """Decorate a function so that it refuses arguments of other types than its annotations.

    Classes, numbers, strings, paths, flags, functions, sequences, mappings and their unions are checked, and the
    `Rule`s of `Annotated`; whole numbers are numbers, and flags are not. `Any` and `type[...]` are not checked. Nothing
    is converted.

    Raises:
        ConfigError: an argument is of another kind; naming it, the rule, and the value.
    """

    @functools.wraps(function)
    def checking(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Answer:
        _require(function, arguments, keywords)
        return function(*arguments, **keywords)

    return checking


def _require(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    signature, kinds = _kinds_of(function)
    try:
        given = signature.bind(*arguments, **keywords).arguments
    except TypeError:  # one is missing or unknown: Python says so when the function is called
        return
    for name, value in given.items():
        kind = kinds.get(name)
        if kind is not None and not kind.fits(value):
            raise ConfigError(
                f"{name} must be {kind.rule}; got {short(value)} ({type(value).__name__}){kind.remedy(value)}"
            )


@cache
def _kinds_of(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, _Kind]]:
    """Kinds by the names of the arguments; annotations are read at the first call."""
    signature = inspect.signature(function)
    hints = typing.get_type_hints(function, include_extras=True)
    named = [
        name
        for name, parameter in signature.parameters.items()
        if name in hints and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    found = {name: _kind(hints[name]) for name in named}
    return signature, {name: kind for name, kind in found.items() if kind is not None}


def _kind(hint: Any) -> _Kind | None:
    """None: any value is allowed."""
    origin, parameters = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is typing.Annotated:
        return _ruled(_kind(parameters[0]), [rule for rule in parameters[1:] if isinstance(rule, Rule)])
    if origin in (typing.Union, types.UnionType):
        return _any_of([_kind(each) for each in parameters])
    if origin is Literal:
        return _Kind(f"one of {', '.join(map(repr, parameters))}", lambda value: value in parameters)
    if origin is collections.abc.Callable:
        return _Kind("a function", callable)
    if origin in (list, collections.abc.Sequence) and parameters:
        return _sequence_of(_kind(parameters[0]))
    if origin is None and hint is not Any and isinstance(hint, type):
        return _instance(hint)
    return _instance(origin) if origin is not type and isinstance(origin, type) else None


def _is_flag(value: Any) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's too


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


_PLAIN: dict[Any, _Kind] = {
    type(None): _Kind("None", lambda value: value is None),
    bool: _Kind("True or False", _is_flag),
    int: _Kind("a whole number", lambda value: isinstance(value, numbers.Integral) and not _is_flag(value)),
    float: _Kind("a number", lambda value: isinstance(value, numbers.Real) and not _is_flag(value)),
    str: _Kind("a string", lambda value: isinstance(value, str)),
}


def _instance(kind: type) -> _Kind | None:
    if issubclass(kind, os.PathLike):
        return _Kind("a path", _is_path)
    if getattr(kind, "_is_protocol", False):
        return None  # any object with its methods
    if kind in (collections.abc.Mapping, dict):
        return _Kind("a mapping", lambda value: isinstance(value, Mapping))
    name = kind.__name__.removeprefix("_")

    def remedy(value: Any) -> str:
        return f": {name}.from_dict makes one" if isinstance(value, Mapping) and hasattr(kind, "from_dict") else ""

    return _Kind(f"{'an' if name[0] in 'AEIOU' else 'a'} {name}", lambda value: isinstance(value, kind), remedy)


def _any_of(kinds: list[_Kind | None]) -> _Kind | None:
    known = [kind for kind in kinds if kind is not None]
    if len(known) < len(kinds):
        return None
    rules = dict.fromkeys(kind.rule for kind in known)
    if "a path" in rules:
        rules.pop("a string", None)

    def fits(value: Any) -> bool:
        return any(kind.fits(value) for kind in known)

    return _Kind(" or ".join(rules), fits, lambda value: next(filter(None, (each.remedy(value) for each in known)), ""))


def _ruled(kind: _Kind | None, rules: list[Rule]) -> _Kind | None:
    if not rules:
        return kind

    def fits(value: Any) -> bool:
        return (kind is None or kind.fits(value)) and all(rule.holds(value) for rule in rules)

    return _Kind(rules[0].text, fits)


def _sequence_of(kind: _Kind | None) -> _Kind:
    def fits(value: Any) -> bool:
        if isinstance(value, str) or not isinstance(value, collections.abc.Sequence):
            return False
        return kind is None or all(map(kind.fits, value))

    return _Kind("a sequence" if kind is None else f"a sequence, each {kind.rule}", fits)
