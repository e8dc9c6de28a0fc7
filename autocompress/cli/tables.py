"""Records as they are shown: tables for people, JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from autocompress.records import TrialRecord

_COLUMNS = ("#", "algorithm", "rate", "achieved", "removed", "accuracy", "budget", "epochs", "seconds", "verdict")


def trials_table(records: Iterable[TrialRecord], title: str | None = None) -> Table:
    """One row a trial: requested and achieved rate, share of parameters removed, accuracy, accuracy budget, verdict."""
    table = Table(title=title, box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("algorithm", "verdict") else "right", no_wrap=True)
    for number, record in enumerate(records, 1):
        table.add_row(str(number), *_cells(record), verdict(record))
    return table


def verdict(record: TrialRecord) -> Text:
    """Whether the trial is within the budget, or why there is no answer."""
    if record.error is not None:
        return Text(f"{record.state}: {record.error}", style="red", overflow="ellipsis")
    if record.feasible:
        return Text("within", style="green")
    return Text("outside", style="yellow")


def number(value: float | None, digits: int = 4) -> str:
    """A number in as few figures as it takes; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as percent; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def line(record: TrialRecord, index: int) -> str:
    """One finished trial in one line of plain text."""
    answer = verdict(record).plain
    return (
        f"trial {index}: {record.algorithm} at {number(record.requested_rate)}: accuracy {number(record.accuracy)} "
        f"({number(record.accuracy_budget, 2)} of budget left), {percent(record.parameters_removed)} of the parameters "
        f"removed, {record.epochs} epochs, {record.seconds:.1f} s: {answer}"
    )


def _cells(record: TrialRecord) -> tuple[str, ...]:
    return (
        record.algorithm,
        number(record.requested_rate),
        number(record.compression_rate),
        percent(record.parameters_removed),
        number(record.accuracy),
        number(record.accuracy_budget, 2),
        str(record.epochs),
        f"{record.seconds:.1f}",
    )
