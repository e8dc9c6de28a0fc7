"""The live display of a search: it reads the experiment's directory and knows no engine."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from autocompress.cli.snapshot import RunningTrial, Snapshot, take
from autocompress.cli.tables import line, number, percent, trials_table
from autocompress.store import ExperimentDirectory

_SECONDS_BETWEEN = 0.5
_SHOWN_TRIALS = 12


@contextlib.contextmanager
def watching(
    store: ExperimentDirectory, console: Console, url: Callable[[], str | None], *, quiet: bool
) -> Iterator[None]:
    """Show the search while the block runs: live on a terminal, else a line for each finished trial.

    Args:
        store: the experiment's directory.
        console: where to.
        url: the web page's address, None while there is none.
        quiet: show nothing.
    """
    if quiet:
        yield
    elif console.is_terminal:
        display = _Display(store, url)
        with Live(get_renderable=display.render, console=console, refresh_per_second=4, redirect_stderr=False):
            yield
    else:
        with _lines(store, console, url):
            yield


class _Display:
    """Reads the directory twice a second, however often it is drawn."""

    def __init__(self, store: ExperimentDirectory, url: Callable[[], str | None]) -> None:
        self._store = store
        self._url = url
        self._started = self._read = time.monotonic()
        self._snapshot: Snapshot | None = None

    def render(self) -> RenderableType:
        now = time.monotonic()
        if self._snapshot is None or now - self._read > _SECONDS_BETWEEN:
            self._snapshot, self._read = take(self._store), now
        return picture(self._snapshot, self._url(), now - self._started)


def picture(snapshot: Snapshot | None, url: str | None, seconds: float) -> RenderableType:
    """The display at one moment."""
    if snapshot is None:
        return Spinner("dots", Text("measuring the uncompressed model ..."))
    parts: list[RenderableType] = [_head(snapshot, seconds)]
    shown = snapshot.records[-_SHOWN_TRIALS:]
    if url is not None:
        parts.append(Text.assemble(("page     ", "dim"), (url, f"link {url}")))
    if shown:
        parts += [Text(), trials_table(shown)]
    parts += [Text(), *(_running(trial, snapshot.threshold) for trial in snapshot.running)]
    parts.append(_best(snapshot))
    return Group(*parts)


def _head(snapshot: Snapshot, seconds: float) -> Text:
    accuracy = f"{number(snapshot.uncompressed)} uncompressed, {number(snapshot.threshold)} to hold"
    return Text.assemble(
        ("accuracy ", "dim"),
        accuracy,
        ("   search ", "dim"),
        f"{len(snapshot.records)} trials, {snapshot.epochs} epochs, {seconds:.0f} s",
    )


def _running(trial: RunningTrial, threshold: float) -> RenderableType:
    of = "" if trial.epochs is None else f" of {trial.epochs}"
    accuracy = "" if trial.accuracy is None else f", accuracy {number(trial.accuracy)} against {number(threshold)}"
    rate = "" if trial.rate is None else f" at rate {number(trial.rate)}"
    return Spinner("dots", Text(f"{trial.algorithm}{rate}: epoch {trial.epoch}{of}{accuracy}"), style="cyan")


def _best(snapshot: Snapshot) -> Text:
    record = snapshot.best
    if record is None:
        return Text("best     nothing within the budget yet", style="dim")
    return Text.assemble(
        ("best     ", "dim"),
        (f"{record.algorithm} at rate {number(record.requested_rate)}", "bold green"),
        f", {percent(record.parameters_removed)} of the parameters removed, accuracy {number(record.accuracy)}",
    )


@contextlib.contextmanager
def _lines(store: ExperimentDirectory, console: Console, url: Callable[[], str | None]) -> Iterator[None]:
    ended = threading.Event()
    printer = threading.Thread(target=_print_lines, args=(store, console, url, ended), daemon=True)
    printer.start()
    try:
        yield
    finally:
        ended.set()
        printer.join()


def _print_lines(
    store: ExperimentDirectory, console: Console, url: Callable[[], str | None], ended: threading.Event
) -> None:
    shown, told = 0, False
    while True:
        last_time = ended.is_set()
        snapshot, address = take(store), url()
        if snapshot is not None and address is not None and not told:
            told = True
            shown = len(snapshot.records)
            console.print(f"web page: {address}", soft_wrap=True, highlight=False)
        for index, record in enumerate(snapshot.records[shown:] if snapshot and told else [], shown + 1):
            console.print(line(record, index), soft_wrap=True, highlight=False)
            shown = index
        if last_time:
            return
        ended.wait(_SECONDS_BETWEEN)
