"""From an algorithm's name to its compressor."""

from __future__ import annotations

import importlib
from typing import cast

from autocompress.algorithms import ALGORITHMS, require_available
from autocompress.compress.base import Compressor


def compressor(name: str) -> Compressor:
    """The compressor of an algorithm; its file is imported only now.

    Raises:
        ConfigError: no algorithm has that name, or this version cannot run it.
    """
    require_available([name])
    module, _, attribute = str(ALGORITHMS[name].compressor).partition(":")
    return cast(Compressor, getattr(importlib.import_module(module), attribute)())
