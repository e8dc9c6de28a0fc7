"""Read JSON from untrusted files: it is checked against a closed grammar before anything is created from it.

A rule takes a value and its path, and returns the value or raises `StoreError`. What no rule allows is refused, so a
reader never meets a kind, a key or a size that the writer does not write.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable
from typing import Any

from autocompress import plain_json
from autocompress.errors import StoreError, short

Rule = Callable[[Any, str], Any]

MOST_BYTES = 1 << 26
"""Of a JSON file."""
MOST_ITEMS = 100_000
"""Of one list or object."""
MOST_VALUES = 1 << 22
"""Of a JSON file: an empty list takes three of its bytes, and twenty times as many in memory."""
_LONGEST_SHOWN = 80
_BEFORE_VALUES = (b",", b"[", b"{")


def parsed(data: bytes) -> Any:
    """JSON as `plain_json` reads it, with bounds on its size and no duplicate keys."""
    if len(data) > MOST_BYTES:
        raise StoreError(f"it must have at most {MOST_BYTES:,} bytes; it has {len(data):,}")
    if (count := sum(map(data.count, _BEFORE_VALUES))) > MOST_VALUES:
        raise StoreError(f"it must have at most {MOST_VALUES:,} values; it has {count:,}")
    try:
        return plain_json.parse(data, unique_keys=True)
    except ValueError as error:
        raise StoreError(str(error)) from error


def refuse(where: str, rule: str, value: Any) -> StoreError:
    """The error of a value that breaks a rule."""
    return StoreError(f"{where} must be {rule}; got {short(value)}")


def shown_path(path: Any) -> str:
    """A path in messages: escaped if it has other than printable characters, which could control a terminal."""
    return path if isinstance(path, str) and path.isprintable() else ascii(path)


def anything(value: Any, where: str) -> Any:  # noqa: ARG001
    """No check."""
    return value


def boolean(value: Any, where: str) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise refuse(where, "true or false", value)
    return value


def integer(low: int, high: int) -> Rule:
    """A whole number in [low, high]."""

    def check(value: Any, where: str) -> int:
        if type(value) is not int or not low <= value <= high:
            raise refuse(where, f"a whole number from {low} to {high}", value)
        return value

    return check


def text(pattern: str, what: str, longest: int = 256) -> Rule:
    """A string that a regular expression matches as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: Any, where: str) -> str:
        if type(value) is not str or len(value) > longest or not compiled.fullmatch(value):
            raise refuse(where, what, value)
        return value

    return check


def word(*known: str) -> Rule:
    """One of a few strings."""

    def check(value: Any, where: str) -> str:
        if type(value) is not str or value not in known:
            raise refuse(where, f"one of {', '.join(known)}", value)
        return value

    return check


def identifier(value: Any, where: str) -> str:
    """A Python identifier that is neither a keyword nor starts with two underscores."""
    if type(value) is not str or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,127}", value, re.ASCII):
        raise refuse(where, "an identifier", value)
    if keyword.iskeyword(value) or value.startswith("__"):
        raise refuse(where, "an identifier, not a keyword or a name of Python's own", value)
    return value


def optional(rule: Rule) -> Rule:
    """Null, or what a rule allows."""
    return lambda value, where: None if value is None else rule(value, where)


def listing(item: Rule, most: int = MOST_ITEMS) -> Rule:
    """A list whose items keep a rule."""

    def check(value: Any, where: str) -> list[Any]:
        if type(value) is not list or len(value) > most:
            raise refuse(where, f"a list of at most {most} items", value)
        return [item(each, f"{where}[{index}]") for index, each in enumerate(value)]

    return check


def mapping(key: Rule, item: Rule, most: int = MOST_ITEMS) -> Rule:
    """An object whose keys and values keep rules."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict or len(value) > most:
            raise refuse(where, f"an object of at most {most} keys", value)
        return {key(name, f"a key of {where}"): item(each, f"{where}.{_shown(name)}") for name, each in value.items()}

    return check


def _shown(name: str) -> str:
    """A key in a message, shortened or escaped like values."""
    return name if name.isprintable() and len(name) <= _LONGEST_SHOWN else short(name)


def record(**fields: Rule) -> Rule:
    """An object with exactly these keys."""

    def check(value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise refuse(where, "an object", value)
        missing, unknown = fields.keys() - value.keys(), value.keys() - fields.keys()
        if missing:
            raise StoreError(f"{where}: {', '.join(sorted(missing))} must be there")
        if unknown:
            raise StoreError(f"{where}: unknown key {short(min(unknown))} (known: {', '.join(sorted(fields))})")
        return {name: rule(value[name], f"{where}.{name}") for name, rule in fields.items()}

    return check


SHAPE = listing(integer(0, 1 << 40), 32)
ANY_NAME = text(
    r"[^\x00-\x1f\x7f\ud800-\udfff]+", "a name of at most 1024 characters, none of them a control character", 1024
)
"""Of a submodule or a tensor; it is looked up in a model, never made source text."""
WHOLE = integer(1 - (1 << 63), (1 << 63) - 1)
"""As `plain_json` reads it."""
