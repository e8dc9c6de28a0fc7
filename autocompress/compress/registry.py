"""From an algorithm's name to its compressor."""

from __future__ import annotations

import importlib
from typing import cast

from autocompress.algorithms import algorithm
from autocompress.compress.base import Compressor
from autocompress.errors import ConfigError


def compressor(name: str) -> Compressor:
    """The compressor of an algorithm; its file is imported only now.

    Raises:
        ConfigError: no algorithm has that name; or it is a mix, whose parts have compressors.
    """
    known = algorithm(name)
    if known.parts:
        raise ConfigError(f"a mix has no compressor of its own, its parts have; got {name!r}")
    module, _, attribute = known.compressor.partition(":")
    return cast(Compressor, getattr(importlib.import_module(module), attribute)())
