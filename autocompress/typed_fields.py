"""Create dataclasses from JSON, checking the fields against their declared types."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar

from autocompress.errors import StoreError, short
from autocompress.plain_json import LARGEST_NUMBER

_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule beside a type: `Annotated[int, Rule("at least 0", ...)]`."""

    text: str  # as a message states it: "must be <text>"
    holds: Callable[[Any], bool]  # whether a value of the type keeps it


_NAME = re.compile(r"[0-9A-Za-z_-][0-9A-Za-z_.@-]{0,63}")

AT_LEAST_0 = Rule("a whole number >= 0", lambda number: number >= 0)
DIRECTORY_NAME = Rule(
    "of letters, digits and _.@- without a leading dot, as it names a directory",
    lambda text: isinstance(text, str) and _NAME.fullmatch(text) is not None,
)
INNER_PATH = Rule("a path inside the experiment's directory", lambda text: _is_inner(text))


class WrongTypeError(ValueError):
    """A value has another type or breaks a rule; the message is the rule."""


def from_fields(kind: type[_Kind], fields: Mapping[str, Any]) -> _Kind:
    """The dataclass with these fields; StoreError for one that is missing, unknown, or of another type."""
    try:
        return kind(**checked(kind, kind.__name__, fields))
    except TypeError as error:
        raise StoreError(f"{kind.__name__}: {error}") from error


def checked(kind: type, where: str, values: Any) -> dict[str, Any]:
    """Check and convert the values of a JSON object by the annotations of a class; unknown names are kept.

    `kind` is a dataclass or a `TypedDict`, of which names may be missing; `where` names the object in messages.
    """
    if not isinstance(values, Mapping):
        raise StoreError(f"{where} must be an object; got {short(values)}")
    known = _checks(kind)
    found = {}
    for name, value in values.items():
        try:
            found[name] = known[name](value) if name in known else value
        except WrongTypeError as error:
            raise StoreError(f"{where}: {name} must be {error}; got {short(value)}") from error
    return found


@cache
def _checks(kind: type) -> dict[str, Callable[[Any], Any]]:
    return {name: _check(hint) for name, hint in typing.get_type_hints(kind, include_extras=True).items()}


def _check(hint: Any) -> Callable[[Any], Any]:
    """A function that checks a value against a type, and converts it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is typing.Annotated:
        return _ruled(_check(arguments[0]), arguments[1:])
    if origin is Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _any_of([_check(each) for each in arguments])
    if origin in (list, tuple):
        return _list_of(origin, _check(arguments[0]))
    if origin in (dict, Mapping):
        return _object_of(_check(arguments[1]))
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _instance(hint)
    return lambda value: value


def _leaf(rule: str, fits: Callable[[Any], bool], convert: Callable[[Any], Any] = lambda value: value) -> Any:
    def leaf(value: Any) -> Any:
        if not fits(value):
            raise WrongTypeError(rule)
        return convert(value)

    return leaf


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST_NUMBER


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


_nothing = _leaf("null", lambda value: value is None)
_PLAIN: dict[Any, Callable[[Any], Any]] = {
    Any: lambda value: value,
    float: _leaf("a finite number", _is_number, float),
    int: _leaf("a whole number below 2**63", _is_whole),
    bool: _leaf("true or false", lambda value: isinstance(value, bool)),
    str: _leaf("a string", lambda value: isinstance(value, str)),
    type(None): _nothing,
}


def _ruled(check: Callable[[Any], Any], rules: tuple[Any, ...]) -> Callable[[Any], Any]:
    def ruled(value: Any) -> Any:
        found = check(value)
        for rule in rules:
            if isinstance(rule, Rule) and not rule.holds(found):
                raise WrongTypeError(rule.text)
        return found

    return ruled


def _literal(known: tuple[Any, ...]) -> Callable[[Any], Any]:
    def literal(value: Any) -> Any:
        if not isinstance(value, str | int) or not any(value == each and type(value) is type(each) for each in known):
            raise WrongTypeError(f"one of {', '.join(map(repr, known))}")
        return value

    return literal


def _any_of(checks: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    takes_none = _nothing in checks

    def any_of(value: Any) -> Any:
        if value is None and takes_none:
            return None
        broken = []
        for check in checks:
            try:
                return check(value)
            except WrongTypeError as error:
                broken.append(str(error))
        raise WrongTypeError(" or ".join(broken))

    return any_of


def _list_of(kind: Callable[[list[Any]], Any], check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def list_of(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise WrongTypeError("a list")
        return kind([check(member) for member in value])

    return list_of


def _object_of(check: Callable[[Any], Any]) -> Callable[[Any], dict[str, Any]]:
    def object_of(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise WrongTypeError("an object")
        return {name: check(member) for name, member in value.items()}

    return object_of


def _instance(kind: type) -> Callable[[Any], Any]:
    _checks(kind)  # now, as Python compiles annotations: what a file holds must not decide what is compiled

    def instance(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if not isinstance(value, Mapping):
            raise WrongTypeError("an object")
        return from_fields(kind, value)

    return instance


def _is_inner(text: str) -> bool:
    parts = re.split(r"[/\\]", text)
    return bool(text) and ".." not in parts and parts[0] != "" and ":" not in parts[0]
