"""Checked deep copies of JSON values that users pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from autocompress.errors import ConfigError
from autocompress.plain_json import require_plain


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
