"""Progress of a search on a terminal, as lines in a file, and in `status`."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from autocompress.cli.snapshot import Reader, RunningTrial, Snapshot
from autocompress.cli.tables import trials_table
from autocompress.errors import StoreError
from autocompress.records import Proposal
from autocompress.report.verdict import at_rate, counted, disagreements, duration, gain, number, trial_line
from autocompress.store import ExperimentDirectory
from autocompress.trial.process import PROGRESS_FILE

_TABLE_ROWS = 12
_BAR = 20


def live_view(
    snapshot: Snapshot | None,
    url: str | None,
    seconds: float,
    *,
    stopping: bool = False,
    ended: bool = False,
    measuring: Text | None = None,
) -> RenderableType:
    """The live display.

    Args:
        snapshot: the experiment; None while its baseline is measured.
        url: the web page's address, None while there is none.
        seconds: since the command began.
        stopping: whether Ctrl-C was pressed.
        ended: whether this is the last view, which stays.
        measuring: how far measuring the uncompressed model is; None: not known.
    """
    if snapshot is None and ended:
        return Text()
    if snapshot is None:
        doing = "stopping ..." if stopping else measuring or "measuring the uncompressed model ..."
        return Spinner("dots", Text.assemble(doing, (f" {duration(seconds)}", "dim")), style="cyan")
    parts: list[RenderableType] = [_accuracy(snapshot), _search(snapshot, seconds)]
    if snapshot.longest is not None and not ended:
        parts.append(_labelled("", Text(snapshot.longest.removeprefix("search: "))))
    if url:
        parts.append(_labelled("page", Text(url, style=f"link {url}", overflow="fold")))
    latest = snapshot.records[-_TABLE_ROWS:]
    if latest:
        first = len(snapshot.records) - len(latest) + 1
        parts += [Text(), trials_table(latest, first, cut=True, verdicts=snapshot.verdicts)]
    parts += [Text(), *([] if ended else _doing(snapshot, url, stopping)), best_line(snapshot), *_warnings(snapshot)]
    return Group(*parts)


def status_view(snapshot: Snapshot, state: str) -> RenderableType:
    """What `status` prints.

    Args:
        snapshot: the experiment.
        state: whether it runs, and how to go on.
    """
    parts = [_labelled("state", Text(state)), _accuracy(snapshot), _search(snapshot, snapshot.seconds)]
    parts += [_labelled("trial", running_text(trial, snapshot.threshold)) for trial in snapshot.running]
    parts.append(best_line(snapshot))
    if snapshot.verdict is not None:
        parts.append(_labelled("verified", Text(f"{number(snapshot.verdict.accuracy)} when loaded afresh")))
    parts += _warnings(snapshot)
    if not snapshot.ended and not snapshot.running:
        parts.append(_labelled("next", Text(_next(snapshot.waiting))))
    return Group(*parts)


def running_text(trial: RunningTrial, threshold: float) -> Text:
    """A running trial: its rate, how far it is, and its accuracy against the threshold."""
    of = "" if trial.epochs is None else f" of {trial.epochs}"
    if trial.accuracy is None:
        return Text(f"{at_rate(trial.algorithm, trial.rate)}: before the first evaluation")
    accuracy = f"accuracy {number(trial.accuracy)} against {number(threshold)}"
    return Text(f"{at_rate(trial.algorithm, trial.rate)}: epoch {trial.epoch}{of}, {accuracy}")


def best_line(snapshot: Snapshot) -> Text:
    """The best model so far."""
    record = snapshot.best
    if record is None:
        return _labelled("best", Text("nothing within the budget" if snapshot.ended else "nothing yet", style="yellow"))
    return Text.assemble(
        ("best     ", "dim"),
        (at_rate(record.algorithm, record.requested_rate), "bold green"),
        f", {gain(record)}, accuracy {number(record.accuracy)}",
    )


def accuracy_text(snapshot: Snapshot) -> str:
    """The uncompressed accuracy and the threshold."""
    bound = "at least" if snapshot.higher_is_better else "at most"
    return f"{number(snapshot.uncompressed)} uncompressed, {bound} {number(snapshot.threshold)} to hold"


def _warnings(snapshot: Snapshot) -> list[Text]:
    found = disagreements(snapshot.records, snapshot.verdicts)
    return [_labelled("warning", Text(each, style="yellow")) for each in found]


def _accuracy(snapshot: Snapshot) -> Text:
    return _labelled("accuracy", Text(accuracy_text(snapshot)))


def _search(snapshot: Snapshot, seconds: float) -> Text:
    done = f"{counted(len(snapshot.records), 'trial')}, {counted(snapshot.epochs, 'epoch')}, {duration(seconds)}"
    return _labelled("search", Text(f"{snapshot.module}: {done}"))


def _doing(snapshot: Snapshot, url: str | None, stopping: bool) -> list[RenderableType]:
    if stopping:
        return [_spinner("stopping: running trials are interrupted ...")]
    if snapshot.running and url is not None:
        return [_spinner(running_text(trial, snapshot.threshold)) for trial in snapshot.running]
    if snapshot.verdict is not None:
        return []
    if snapshot.ended:
        return [_spinner("loading the best model afresh and evaluating it ..." if snapshot.best else "ending ...")]
    return [_spinner("starting ..." if url is None else f"next: {_next(snapshot.waiting)}")]


def _next(waiting: list[Proposal]) -> str:
    if not waiting:
        return "the tuner decides"
    return ", ".join(
        f"{at_rate(proposal.algorithm, proposal.requested_rate)}, up to {counted(proposal.epochs, 'epoch')}"
        for proposal in waiting
    )


def _spinner(text: str | Text) -> Spinner:
    return Spinner("dots", text, style="cyan")


def _labelled(label: str, text: Text) -> Text:
    return Text.assemble((f"{label:<9}", "dim"), text)


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
        with _progress_file() as file, _live(Display(reader, url, stopping, file), console):
            yield
    else:
        with _printing(Lines(reader, console, url)):
            yield


@contextlib.contextmanager
def _progress_file() -> Iterator[Path]:
    """A file to which processes that are started in the block write how far they are."""
    before = os.environ.get(PROGRESS_FILE)
    with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
        file = Path(folder) / "progress.json"
        os.environ[PROGRESS_FILE] = str(file)
        try:
            yield file
        finally:
            os.environ.pop(PROGRESS_FILE)
            if before is not None:
                os.environ[PROGRESS_FILE] = before


def progress_text(file: Path) -> Text | None:
    """What a file tells of a long measurement, with a bar; None where nothing is written."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        what, done, of = found["what"], found["done"], found["of"]
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return None
    filled = _BAR * done // of
    return Text.assemble(what, " ", ("━" * filled, "cyan"), ("━" * (_BAR - filled), "dim"), f" {done} of {of}")


class Display:
    """The live display: reads the directory twice a second, however often it is drawn."""

    def __init__(
        self,
        reader: Reader,
        url: Callable[[], str | None],
        stopping: Callable[[], bool],
        progress: Path | None = None,
    ) -> None:
        self._reader, self._progress = reader, progress
        self._url, self._stopping = url, stopping
        self._started = time.monotonic()
        self._read = float("-inf")
        self._ended = False
        self._snapshot: Snapshot | None = None
        self._address: str | None = None

    def render(self) -> RenderableType:
        """The display at this moment; an address once known stays, so that the last view has it too."""
        now = time.monotonic()
        if now - self._read > _SECONDS_BETWEEN:
            self._snapshot, self._read = _snapshot_or(self._reader, self._snapshot), now
        self._address = self._url() or self._address
        return live_view(
            self._snapshot,
            self._address,
            now - self._started,
            stopping=self._stopping(),
            ended=self._ended,
            measuring=None if self._progress is None else progress_text(self._progress),
        )

    def end(self) -> None:
        """Let the last view be that of the end, with nothing going on in it."""
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
        snapshot, address = _snapshot_or(self._reader, None), self._url()
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
            self._print(trial_line(record, self._shown))

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
        console.print()  # an empty line between the display and the result


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


def _snapshot_or(reader: Reader, otherwise: Snapshot | None) -> Snapshot | None:
    """The snapshot; where the files cannot be read now the last one, as the search itself reports what is wrong."""
    try:
        return reader.take()
    except (StoreError, OSError):
        return otherwise
