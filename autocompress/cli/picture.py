"""An experiment at one moment, as it is drawn."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.spinner import Spinner
from rich.text import Text

from autocompress.cli.snapshot import RunningTrial, Snapshot
from autocompress.cli.tables import trials_table
from autocompress.records import Proposal
from autocompress.report.disagreement import disagreements
from autocompress.report.phrases import at_rate, counted, duration, gain, number

_SHOWN_TRIALS = 12


def picture(
    snapshot: Snapshot | None, url: str | None, seconds: float, *, stopping: bool = False, ended: bool = False
) -> RenderableType:
    """The live display.

    Args:
        snapshot: the experiment; None while its baseline is measured.
        url: the web page's address, None while there is none.
        seconds: since the command began.
        stopping: whether Ctrl-C was pressed.
        ended: whether this is the last picture, which stays.
    """
    if snapshot is None and ended:
        return Text()
    if snapshot is None:
        doing = "stopping ..." if stopping else "measuring the uncompressed model ..."
        return Spinner("dots", Text.assemble(doing, (f" {duration(seconds)}", "dim")), style="cyan")
    parts: list[RenderableType] = [_accuracy(snapshot), _search(snapshot, seconds)]
    if snapshot.longest is not None and not ended:
        parts.append(_labelled("", Text(snapshot.longest.removeprefix("search: "))))
    if url:
        parts.append(_labelled("page", Text(url, style=f"link {url}", overflow="fold")))
    shown = snapshot.records[-_SHOWN_TRIALS:]
    if shown:
        first = len(snapshot.records) - len(shown) + 1
        parts += [Text(), trials_table(shown, first, cut=True, verdicts=snapshot.verdicts)]
    parts += [Text(), *([] if ended else _doing(snapshot, url, stopping)), best_line(snapshot), *_warnings(snapshot)]
    return Group(*parts)


def still(snapshot: Snapshot, state: str) -> RenderableType:
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
    told = disagreements(snapshot.records, snapshot.verdicts)
    return [_labelled("warning", Text(each, style="yellow")) for each in told]


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
        f"{at_rate(proposal.algorithm, proposal.compression_rate)}, up to {counted(proposal.epochs, 'epoch')}"
        for proposal in waiting
    )


def _spinner(text: str | Text) -> Spinner:
    return Spinner("dots", text, style="cyan")


def _labelled(label: str, text: Text) -> Text:
    return Text.assemble((f"{label:<9}", "dim"), text)
