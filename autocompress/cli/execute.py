"""How a command runs a search, and how every command ends: display, messages, exit codes."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.logging import RichHandler

from autocompress.cli.live_display import watching
from autocompress.engines.base import Engine, Interrupts, Search
from autocompress.errors import (
    AutoCompressError,
    ConfigError,
    InfeasibleBudgetError,
    ModuleError,
    StoreError,
    TrialError,
    command,
    printable,
)
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from autocompress.store.directory import removed_if_unused
from autocompress.tracking.callback import tracker, without_progress

if TYPE_CHECKING:
    from autocompress.compression.module_loading import AnyReference
    from autocompress.tracking import Callback


def run_search(
    engine: Engine,
    search: Search,
    *,
    quiet: bool,
    trackers: Iterable[str] = (),
    keep_page: bool = False,
    again: str | None = None,
) -> None:
    """Run the search to its end and print the result.

    Args:
        engine: that runs it.
        search: not yet started.
        quiet: print nothing but the result.
        trackers: where its progress is logged, each as `<name>=<where>`.
        keep_page: leave its web page up at the end, until Ctrl-C.
        again: the command that goes on after Ctrl-C; None: `autocompress resume`.

    Raises:
        AutoCompressError: as the engine does.
        typer.Exit: Ctrl-C; how to go on has been printed.
    """
    store = ExperimentDirectory(search.directory)
    callbacks = [tracker(text) for text in trackers]
    with removed_if_unused(store.path):
        if not _runs_to_its_end(engine, search, callbacks, quiet=quiet, keep_page=keep_page):
            go_on = f"go on with: {again or command('autocompress', 'resume', store.path)}"
            print(f"stopped; {go_on if store.exists() else 'the search had not begun'}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED)
    try:
        print(result_text(CompressionResult(store)))
        if keep_page and search.url:
            show_page(search.url)
        elif keep_page:
            serve_page(engine, store.path, None)
    finally:
        search.stop()


def serve_page(engine: Engine, directory: Path, port: int | None) -> None:
    """Serve the page of a search that has ended until Ctrl-C, or print the command that does."""
    _quieten(engine, Console(quiet=True))
    page = engine.show(directory, **({} if port is None else {"port": port}))
    if isinstance(page, str):
        print(f"no web page; show it with: {page}")
        return
    with contextlib.ExitStack() as served:
        served.callback(page.stop)
        show_page(str(page.url))


def show_page(url: str) -> None:
    """Print where a web page is, and wait for Ctrl-C."""
    print(f"page     {url}  (Ctrl-C ends it)", flush=True)
    with contextlib.suppress(KeyboardInterrupt), Interrupts().counted():
        threading.Event().wait()


def new_directory(reference: AnyReference, out: Path | None) -> Path:
    """The given directory, else one named after the module and the time."""
    return out or Path("autocompress-out", f"{reference.class_name}-{datetime.now():%Y%m%d-%H%M%S}")


def result_text(result: CompressionResult) -> str:
    """The result's summary and how to load the model.

    Raises:
        InfeasibleBudgetError: nothing stayed within the budget.
    """
    return f"{result.summary()}\nload it     {result.loading_line}"


def _runs_to_its_end(
    engine: Engine, search: Search, callbacks: Sequence[Callback], *, quiet: bool, keep_page: bool
) -> bool:
    console, interrupts, ended = Console(), Interrupts(), False
    _quieten(engine, console)
    with interrupts.counted(), without_progress():
        try:
            with watching(
                ExperimentDirectory(search.directory),
                console,
                lambda: search.url,
                quiet=quiet,
                stopping=lambda: interrupts.count > 0,
                trials=search.trials,
            ):
                ended = search.run(callbacks)
                return ended
        except KeyboardInterrupt:
            return False
        finally:
            interrupts.settle()
            if not (ended and keep_page):
                search.stop()


def _quieten(engine: Engine, console: Console) -> None:
    """Of what a framework logs only warnings are left, and ours go above the live display."""
    logging.getLogger(engine.framework_logger).setLevel(logging.WARNING)
    ours = logging.getLogger(engine.logger)
    ours.propagate = False
    ours.handlers = [RichHandler(console=console, show_time=False, show_path=False)]


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
        with Interrupts().counted():
            yield
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from error
    except AutoCompressError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {printable(_message(error))}", file=sys.stderr)
        if not debug and _has_traceback(error):
            print("(--debug prints the traceback of its cause)", file=sys.stderr)
        raise typer.Exit(_code(error)) from error


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
