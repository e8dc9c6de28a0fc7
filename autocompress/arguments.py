"""Arguments of compression algorithms: their names, defaults and what they may be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.errors import ConfigError, unknown_name


@dataclass(frozen=True)
class Argument:
    """An argument of an algorithm; a whole number, a number, a flag, a text, or a list of texts, as its default is.

    Attributes:
        name: as users write it.
        default: its value where it is not given.
        options: all allowed values; empty: any value of the default's type.
        minimum: the lowest allowed number.
    """

    name: str
    default: Any
    options: tuple[Any, ...] = ()
    minimum: float = 0

    def check(self, value: Any) -> Any:
        """The value itself (a single text becomes a list where lists are taken), if it is allowed.

        Raises:
            ConfigError: it is not.
        """
        checked = (value,) if isinstance(self.default, tuple) and isinstance(value, str) else value
        if not self._allows(checked):
            raise ConfigError(f"{self.name} must be {self.rule}; got {value!r}")
        return tuple(checked) if isinstance(self.default, tuple) else checked

    @property
    def rule(self) -> str:
        """What it must be, in words."""
        if self.options:
            return f"one of {', '.join(repr(option) for option in self.options)}"
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, int):
            return f"a whole number >= {self.minimum:g}"
        if isinstance(self.default, float):
            return f"a finite number >= {self.minimum:g}"
        return "a list of texts" if isinstance(self.default, tuple) else "a text"

    def _allows(self, value: Any) -> bool:
        if isinstance(self.default, tuple):
            return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        if isinstance(value, bool) != isinstance(self.default, bool):
            return False
        if self.options:
            return value in self.options
        if isinstance(self.default, bool | str):
            return isinstance(value, type(self.default))
        kinds = (int,) if isinstance(self.default, int) else (int, float)
        return isinstance(value, kinds) and math.isfinite(value) and value >= self.minimum


def complete(arguments: Iterable[Argument], given: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """All arguments of an algorithm: those given, checked, and the defaults of the others.

    Raises:
        ConfigError: an argument has no such name, or a value that is not allowed.
    """
    known = {argument.name: argument for argument in arguments}
    for name in given:
        if name not in known:
            raise ConfigError(unknown_name(f"argument of {whose!r}", name, known))
    return {
        name: argument.check(given[name]) if name in given else argument.default for name, argument in known.items()
    }
