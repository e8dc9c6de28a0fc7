"""`autocompress compare`: the table of tuners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from autocompress.report.phrases import counted, number

if TYPE_CHECKING:
    from autocompress.report.comparison import Comparison
    from autocompress.report.outcomes import SearchOutcome


def told_outcome(outcome: SearchOutcome) -> str:
    """A search that has ended, in one line."""
    named = f"{outcome.tuner}, seed {outcome.seed}"
    if outcome.error is not None:
        return f"{named}: {outcome.error}"
    best = "nothing within the budget" if outcome.best_rate is None else f"best rate {number(outcome.best_rate)}"
    return f"{named}: {best}, {counted(outcome.trials, 'trial')}, {counted(outcome.epochs, 'epoch')}"


def print_comparison(comparison: Comparison, console: Console) -> None:
    """The headline, the table, how it is to be read, and the tuners without results."""
    from autocompress.report.comparison_page import HEADS, cells, explanation, headline

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right", no_wrap=True)
    for row in comparison.rows:
        table.add_row(*(Text(text) for text in (row.tuner, *cells(row))))
    console.print(headline(comparison), soft_wrap=True, highlight=False)
    console.print(table)
    console.print(explanation(comparison), style="dim", highlight=False, markup=False)
    for row in comparison.rows:
        for error in row.errors:
            console.print(f"{row.tuner}: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
