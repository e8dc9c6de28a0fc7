"""JSON as autocompress writes it, read strictly, as files may come from anywhere.

Python's own reader raises `RecursionError` for deep nesting, and accepts NaN, numbers that overflow and strings that no
file can hold, which would fail far from their source. Files from others are also checked against a closed grammar: a
rule takes a value and its path, and returns the value or raises `StoreError`, so a reader never meets a kind, a key or
a size that the writer does not write.
"""

from __future__ import annotations

import json
import keyword
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from autocompress.errors import ConfigError, StoreError, short

MAXIMAL_DEPTH = 64
LARGEST_NUMBER = 2**63
"""Whole numbers are smaller."""

_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_LARGE = (re.compile(r"[0-9]{19}"), re.compile(r"[eE]\+?[0-9]{3}"))
"""What may be a character that no text may have, a long number, a large exponent; a search of one is quick."""


def parse(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """The value of UTF-8 JSON text; `unique_keys`: refuse duplicate keys, of which else the last one counts.

    Raises:
        ValueError: it is not JSON, or breaks a rule of `require_plain`; the message says which.
    """
    decoded = text if isinstance(text, str) else text.decode("utf-8")
    try:
        value = json.loads(decoded, parse_constant=_refuse, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _may_break_a_rule(decoded, is_utf8=isinstance(text, bytes)):
        require_plain(value)
    return value


def _may_break_a_rule(text: str, *, is_utf8: bool) -> bool:
    """Whether the value must be checked, which takes several times as long as reading it."""
    if text.count("[") + text.count("{") >= MAXIMAL_DEPTH or not (is_utf8 or text.isascii()):
        return True
    if "\\u" in text and _ESCAPE.search(text):
        return True
    return any(pattern.search(text) for pattern in _LARGE)


def require_plain(value: Any) -> None:
    """Check the depth, the strings and the numbers of a value.

    Raises:
        ValueError: it is nested more than 64 deep, has a whole number of 64 bits or more, an infinite one, or a string
            with NUL or half a surrogate pair.
    """
    level = [value]
    for _ in range(MAXIMAL_DEPTH):
        level = [member for each in level for member in _members(each)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def dumps(value: Any, *, indent: int | None = None) -> str:
    """The JSON text of a value, which `parse` reads; characters that it refuses are replaced by U+FFFD."""
    return json.dumps(_writable(value), indent=indent, allow_nan=False)


_TOO_DEEP = f"objects and lists must be nested at most {MAXIMAL_DEPTH} deep"


def _members(value: Any) -> list[Any]:
    """The children of a value, once it has been checked."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, str):
        if not _is_text(value):
            raise ValueError(f"a string must not have NUL or half a surrogate pair in it; got {value[:80]!r}")
    elif isinstance(value, int):
        if abs(value) >= LARGEST_NUMBER:
            raise ValueError(f"a whole number must be below 2**63; got one of {value.bit_length()} bits")
    elif isinstance(value, float) and math.isinf(value):
        raise ValueError("a number must be finite; got one that overflows")
    return []


def _is_text(text: str) -> bool:
    if text.isascii():
        return "\0" not in text
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_writable(name): _writable(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_writable(member) for member in value]
    if isinstance(value, str) and not _is_text(value):
        return "".join(character if _is_text(character) else "\ufffd" for character in value)
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"a number must be finite; got {name}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f"an object must have each key once; got {key!r} twice")
        read[key] = value
    return read


def plain(key: str, value: Any) -> Any:
    """A deep copy of JSON's types only; tuples become lists. `key` names the value in messages."""
    try:
        copied = _copied(key, value)
        require_plain(copied)
    except RecursionError:
        raise ConfigError(f"{key} must not be nested so deep") from None
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    return copied


def _copied(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_name(key, name): _copied(f"{key}.{name}", member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(f"{key}[{index}]", member) for index, member in enumerate(value)]
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ConfigError(f"{key} must be JSON: objects, lists, strings, finite numbers, booleans or null; got {value!r}")


def is_number(value: Any) -> bool:
    """Whether it is a finite int or float; booleans are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _name(key: str, name: Any) -> str:
    if not isinstance(name, str):
        raise ConfigError(f"the keys of {key} must be strings; got {name!r}")
    return name


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
    """JSON as `parse` reads it, with bounds on its size and no duplicate keys."""
    if len(data) > MOST_BYTES:
        raise StoreError(f"it must have at most {MOST_BYTES:,} bytes; it has {len(data):,}")
    if (count := sum(map(data.count, _BEFORE_VALUES))) > MOST_VALUES:
        raise StoreError(f"it must have at most {MOST_VALUES:,} values; it has {count:,}")
    try:
        return parse(data, unique_keys=True)
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
"""As `parse` reads it."""
