"""Which part of a model an algorithm may touch: NNCF's `target_scopes` and `ignored_scopes`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocompress.errors import ConfigError

_SHOWN = 5

REGEX = "{re}"
"""Marks a pattern: the rest is a regular expression that is searched for in the dotted name."""


@dataclass(frozen=True)
class Scopes:
    """Parts of a model by name.

    A scope is the dotted name of a submodule, which stands for all below it too, or `{re}` and a regular expression.

    Attributes:
        target: the only parts that may be touched; empty: all.
        ignored: parts that may not be touched, whatever else selects them.
        validate: whether a scope that matches nothing is an error.
    """

    target: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    validate: bool = True

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Scopes:
        """The scopes among an algorithm's arguments."""
        target, ignored = arguments.get("target_scopes", ()), arguments.get("ignored_scopes", ())
        return cls(tuple(target), tuple(ignored), bool(arguments.get("validate_scopes", True)))

    def check(self, model: nn.Module) -> None:
        """Check that every scope matches something in the model.

        Raises:
            ConfigError: one does not, or is no regular expression.
        """
        names = [name for name, _ in model.named_modules() if name]
        for key, scopes in (("target_scopes", self.target), ("ignored_scopes", self.ignored)):
            for scope in scopes:
                if not any(_matches(scope, name) for name in names) and self.validate:
                    raise ConfigError(f"{key}: {_no_match(scope, names)}")

    def allow(self, name: str) -> bool:
        """Whether the submodule of that name may be touched."""
        targeted = not self.target or _any_matches(self.target, name)
        return targeted and not _any_matches(self.ignored, name)


EVERYWHERE = Scopes()
"""No limits."""


def _any_matches(scopes: Iterable[str], name: str) -> bool:
    return any(_matches(scope, name) for scope in scopes)


def _matches(scope: str, name: str) -> bool:
    if not scope.startswith(REGEX):
        return name == scope or name.startswith(f"{scope}.")
    try:
        return re.search(scope.removeprefix(REGEX), name) is not None
    except re.error as error:
        raise ConfigError(f"a scope {REGEX!r} must be followed by a regular expression; {scope!r}: {error}") from error


def _no_match(scope: str, names: list[str]) -> str:
    """The scope, and the names that are close to it as a whole or in their last part."""
    text = scope.removeprefix(REGEX)
    last = re.split(r"\W", text.rstrip("$"))[-1]
    tails = difflib.get_close_matches(last, {name.rpartition(".")[2] for name in names}, n=_SHOWN)
    close = difflib.get_close_matches(text, names, n=_SHOWN)
    close += [name for name in names if name.rpartition(".")[2] in tails and name not in close]
    top = [name for name in names if "." not in name]
    told = f"close names: {', '.join(close[:_SHOWN])}" if close else f"names at its top: {', '.join(top)}"
    return f"{scope!r} matches nothing in the model ({told})"
