"""JSON as autocompress writes it, read strictly, as files may come from anywhere.

Python's own reader raises `RecursionError` for deep nesting, and accepts NaN, numbers that overflow and strings that no
file can hold, which would fail far from their source.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from typing import Any

from autocompress.errors import ConfigError

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
