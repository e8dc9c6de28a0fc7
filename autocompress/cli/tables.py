"""Records as they are shown: figures, lines and tables for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from autocompress.records import TrialRecord
from autocompress.report.disagreement import disagreement
from autocompress.report.phrases import at_rate, counted, gain, holds, number, percent, verdict
from autocompress.store import Verdict

_COLUMNS = (
    "#",
    "algorithm",
    "rate",
    "achieved",
    "removed",
    "saved",
    "accuracy",
    "budget",
    "epochs",
    "sec",
    "verdict",
)
_LEFT = ("algorithm", "verdict")


def trials_table(
    records: Iterable[TrialRecord],
    first: int = 1,
    *,
    cut: bool = False,
    verdicts: Mapping[str, Verdict] = MappingProxyType({}),
) -> Table:
    """One row a trial: requested and achieved rate, share of parameters removed, of bytes saved, accuracy, verdict.

    Args:
        records: the rows.
        first: number of the first of them.
        cut: cut long reasons of failure to the width instead of wrapping them.
        verdicts: what trials' models came to when they were loaded afresh, by the trials' keys.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in _COLUMNS:
        justify: JustifyMethod = "left" if column in _LEFT else "right"
        table.add_column(column, justify=justify, no_wrap=cut or column != "verdict")
    for index, record in enumerate(records, first):
        table.add_row(str(index), *_cells(record), styled_verdict(record, verdicts.get(record.key)))
    return table


def styled_verdict(record: TrialRecord, fresh: Verdict | None = None) -> Text:
    """The verdict in its colour."""
    told, sure = verdict(record, fresh), holds(record, fresh) and disagreement(record, fresh) is None
    if record.error is not None:
        return Text(told, style="red", overflow="ellipsis")
    return Text(told, style="green" if sure else "yellow", overflow="ellipsis")


def line(record: TrialRecord, index: int) -> str:
    """One finished trial in one line of plain text."""
    named = f"trial {index}: {at_rate(record.algorithm, record.requested_rate)}: "
    if record.accuracy is None:
        return f"{named}{verdict(record)}"
    return (
        f"{named}accuracy {number(record.accuracy)} ({_signed(record.accuracy_budget, '+.2g')} to the threshold), "
        f"{gain(record)}, {counted(record.epochs, 'epoch')}, "
        f"{record.seconds:.1f} s: {verdict(record)}"
    )


def _cells(record: TrialRecord) -> tuple[str, ...]:
    return (
        record.algorithm,
        _aligned(record.requested_rate),
        _aligned(record.compression_rate),
        percent(record.parameters_removed),
        percent(record.size_removed),
        _aligned(record.accuracy),
        _signed(record.accuracy_budget, _layout(record.accuracy_budget, "+")),
        str(record.epochs),
        f"{record.seconds:.1f}",
    )


def _aligned(value: float | None) -> str:
    """A number with as many decimals as its neighbours in a column have, so that their points are in line."""
    return _signed(value, _layout(value))


def _layout(value: float | None, sign: str = "") -> str:
    size = abs(value or 0.0)
    if size >= 10 or 0 < size < 0.0001:
        return f"{sign}.4g"
    return f"{sign}.4f"


def _signed(value: float | None, layout: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, layout)
