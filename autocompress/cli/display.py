"""The display of a search while it runs: it reads the experiment's directory and knows no engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live

from autocompress.cli.picture import accuracy_text, picture
from autocompress.cli.snapshot import Reader, Snapshot
from autocompress.cli.tables import line
from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory

_SECONDS_BETWEEN = 0.5


@contextlib.contextmanager
def watching(
    store: ExperimentDirectory,
    console: Console,
    url: Callable[[], str | None],
    *,
    quiet: bool,
    stopping: Callable[[], bool] = lambda: False,
    trials: int | None = None,
) -> Iterator[None]:
    """Show the search while the block runs: live on a terminal, else a line for each finished trial.

    Args:
        store: the experiment's directory.
        console: where to.
        url: the web page's address, None while there is none.
        quiet: show nothing.
        stopping: whether Ctrl-C was pressed.
        trials: the most that are run; None: as many as it takes.
    """
    reader = Reader(store, trials)
    if quiet:
        yield
    elif console.is_terminal:
        with _live(Display(reader, url, stopping), console):
            yield
    else:
        with _printing(Lines(reader, console, url)):
            yield


class Display:
    """The live display: reads the directory twice a second, however often it is drawn."""

    def __init__(self, reader: Reader, url: Callable[[], str | None], stopping: Callable[[], bool]) -> None:
        self._reader = reader
        self._url, self._stopping = url, stopping
        self._started = time.monotonic()
        self._read = float("-inf")
        self._ended = False
        self._snapshot: Snapshot | None = None
        self._address: str | None = None

    def render(self) -> RenderableType:
        """The display at this moment; an address once known stays, so that the last picture shows it too."""
        now = time.monotonic()
        if now - self._read > _SECONDS_BETWEEN:
            self._snapshot, self._read = _taken(self._reader, self._snapshot), now
        self._address = self._url() or self._address
        return picture(self._snapshot, self._address, now - self._started, stopping=self._stopping(), ended=self._ended)

    def end(self) -> None:
        """Let the last picture be that of the end, with nothing going on in it."""
        self._read, self._ended = float("-inf"), True


class Lines:
    """Plain lines: the page and the threshold when they are known, then each trial that ends."""

    def __init__(self, reader: Reader, console: Console, url: Callable[[], str | None]) -> None:
        self._reader = reader
        self._console = console
        self._url = url
        self._shown: int | None = None

    def print_new(self) -> None:
        """Print what is new since the last call. Trials of before a resume are not."""
        snapshot, address = _taken(self._reader, None), self._url()
        if snapshot is None:
            return
        if self._shown is None:
            if address is None:
                return
            self._shown = len(snapshot.records)
            if address:
                self._print(f"web page: {address}")
            self._print(f"accuracy: {accuracy_text(snapshot)}")
            if snapshot.longest is not None:
                self._print(snapshot.longest)
        for record in snapshot.records[self._shown :]:
            self._shown += 1
            self._print(line(record, self._shown))

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


@contextlib.contextmanager
def _live(display: Display, console: Console) -> Iterator[None]:
    try:
        with Live(get_renderable=display.render, console=console, refresh_per_second=4, redirect_stderr=False):
            try:
                yield
            finally:
                display.end()
    finally:
        console.print()  # between the display and what is told after it


@contextlib.contextmanager
def _printing(lines: Lines) -> Iterator[None]:
    ended = threading.Event()
    printer = threading.Thread(target=_print_until, args=(lines, ended), daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _print_until(lines: Lines, ended: threading.Event) -> None:
    while not ended.wait(_SECONDS_BETWEEN):
        lines.print_new()
    lines.print_new()


def _taken(reader: Reader, otherwise: Snapshot | None) -> Snapshot | None:
    """A look that never disturbs the search: what cannot be read now is told by the search itself."""
    try:
        return reader.take()
    except (StoreError, OSError):
        return otherwise
