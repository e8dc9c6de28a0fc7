"""What is printed to."""

from __future__ import annotations

import sys

from rich.console import Console

_PIPED_WIDTH = 1000


def piped_console() -> Console:
    """Standard output; where it is no terminal, nothing is cut or wrapped."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPED_WIDTH)
