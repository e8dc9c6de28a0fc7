"""How a command ends: what is printed, and the exit code."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType

import typer

from autocompress.errors import (
    AutoCompressError,
    ConfigError,
    InfeasibleBudgetError,
    ModuleError,
    StoreError,
    TrialError,
)

FAILED = 1
BAD_INPUT = 2
INFEASIBLE = 3
INTERRUPTED = 130


@contextlib.contextmanager
def errors_as_messages(*, debug: bool = False) -> Iterator[None]:
    """Turn errors into one message on standard error and an exit code.

    2 for bad input, 3 where nothing stayed within the budget, 130 for Ctrl-C, 1 for all else that autocompress raises
    on purpose.

    Args:
        debug: print the traceback, causes included, before the message.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
    except AutoCompressError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
        if not debug and _has_traceback(error):
            print("(--debug prints the traceback of its cause)", file=sys.stderr)
        raise typer.Exit(_code(error)) from error


class Interrupts:
    """Ctrl-C or SIGTERM stops cleanly; once more changes nothing, not to break off the stopping; a third forces it."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count interrupts while the block runs."""
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the interface of signal handlers
        self.count += 1
        if self.count != 2:
            raise KeyboardInterrupt


def _message(error: AutoCompressError) -> str:
    """The message without the traceback that a `TrialError` carries in its text."""
    return str(error.args[0]) if isinstance(error, TrialError) else str(error)


def _has_traceback(error: BaseException | None) -> bool:
    if error is None:
        return False
    return (isinstance(error, TrialError) and error.traceback is not None) or _has_traceback(error.__cause__)


def _code(error: AutoCompressError) -> int:
    if isinstance(error, InfeasibleBudgetError):
        return INFEASIBLE
    return BAD_INPUT if isinstance(error, ConfigError | ModuleError | StoreError) else FAILED
