"""How a command ends: what is printed, and the exit code."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator

import typer

from autocompress.errors import AutoCompressError, ConfigError, InfeasibleBudgetError, ModuleError, StoreError

FAILED = 1
BAD_INPUT = 2
INFEASIBLE = 3
INTERRUPTED = 130


@contextlib.contextmanager
def told_errors(*, debug: bool = False) -> Iterator[None]:
    """Turn errors into one message on standard error and an exit code.

    2 for bad input, 3 where nothing stayed within the budget, 1 for all else that autocompress raises on purpose.
    """
    try:
        yield
    except AutoCompressError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(_code(error)) from error


def _code(error: AutoCompressError) -> int:
    if isinstance(error, InfeasibleBudgetError):
        return INFEASIBLE
    return BAD_INPUT if isinstance(error, ConfigError | ModuleError | StoreError) else FAILED
