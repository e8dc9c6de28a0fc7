"""Arguments of compression algorithms: their names, defaults and what they may be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from autocompress.errors import ConfigError


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
        """The value, if it is allowed; lists come back as tuples.

        Raises:
            ConfigError: it is not.
        """
        checked = self._converted(value)
        if not self._allows(checked):
            raise ConfigError(f"{self.name} must be {self.rule}; got {value!r}")
        return checked

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

    def _converted(self, value: Any) -> Any:
        """A single text as a tuple, lists as tuples; 3.0, which quniform gives, as 3 where whole numbers are wanted."""
        if isinstance(self.default, tuple):
            return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        whole = isinstance(self.default, int) and isinstance(value, float) and value.is_integer()
        return int(value) if whole else value

    def _allows(self, value: Any) -> bool:
        if isinstance(self.default, tuple):
            return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        if isinstance(value, bool) != isinstance(self.default, bool):
            return False
        if self.options:
            return value in self.options
        if isinstance(self.default, bool | str):
            return isinstance(value, type(self.default))
        kinds = (int,) if isinstance(self.default, int) else (int, float)
        return isinstance(value, kinds) and math.isfinite(value) and value >= self.minimum
