"""The page, the plot and the plain table of a comparison of tuners."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from autocompress.report.comparison import Comparison, SearchOutcome, Spread, TunerRow
from autocompress.report.format import counted, number
from autocompress.report.page import rendered
from autocompress.report.plot_style import PALETTE, Draw, svg

_RATE = "Best rate within the budget against epochs of training: medians over seeds, the first tuner's range as a band."
HEADS = ("tuner", "best rate", "hold-out", "trials to best", "epochs to best", "false", "trials", "epochs", "seconds")
"""Of the table's columns."""


def comparison_page(comparison: Comparison) -> str:
    """The page's HTML."""
    pictures = [(caption, svg(draw, themed=True)) for caption, draw in comparison_plots(comparison).values()]
    return rendered(
        "comparison.html",
        title=f"{comparison.module}: tuners compared",
        comparison=comparison,
        headline=headline(comparison),
        explanation=explanation(comparison),
        pictures=pictures,
        heads=HEADS,
        rows=[(row, cells(row)) for row in comparison.rows],
        outcomes=comparison.outcomes,
    )


def headline(comparison: Comparison) -> str:
    """The result in one sentence."""
    rows = [row for row in comparison.rows if row.epochs_to_best.median is not None]
    if not rows or comparison.best_known is None:
        return "No tuner found anything within the accuracy budget."
    first = rows[0]
    missing = f" (but for {counted(first.epochs_to_best.missing, 'seed')})" if first.epochs_to_best.missing else ""
    return (
        f"{first.tuner} came within {number(comparison.minimal_step)} of the best known rate, "
        f"{number(comparison.best_known)}, after {number(first.epochs_to_best.median)} epochs of training{missing}."
    )


def explanation(comparison: Comparison) -> str:
    """How to read the table."""
    seeds = len({each.seed for each in comparison.outcomes})
    return (
        f"At most {comparison.trials} trials each, {counted(seeds, 'seed')}: median [range]; -N: N seeds never had it. "
        f"best rate: highest achieved {comparison.objective} within the budget (uncompressed accuracy "
        f"{number(comparison.baseline_accuracy)}, threshold {number(comparison.threshold)}). to best: until within "
        f"{number(comparison.minimal_step)} of the best known rate. false: trials within the budget on validation data "
        "and outside it on hold-out data. seconds: wall time of the trials."
    )


def comparison_plots(comparison: Comparison) -> dict[str, tuple[str, Draw]]:
    """File name -> caption and plot."""
    return {"comparison": (_RATE, lambda axes: _draw(comparison, axes))}


def cells(row: TunerRow) -> list[str]:
    """A tuner's row as text, under `HEADS` without the name."""
    return [_spread_text(spread, 3 if spread is row.seconds else 4) for spread in row.spreads]


def _spread_text(spread: Spread, digits: int) -> str:
    if spread.median is None:
        return "never" if spread.missing else "-"
    text = number(spread.median, digits)
    if spread.low != spread.high:
        text += f" [{number(spread.low, digits)}, {number(spread.high, digits)}]"
    return f"{text} -{spread.missing}" if spread.missing else text


def _draw(comparison: Comparison, axes: Axes) -> None:
    names = [row.tuner for row in comparison.rows]
    longest = max((each.epochs for each in comparison.outcomes), default=0)
    for index, name in enumerate(names):
        searches = [each for each in comparison.outcomes if each.tuner == name and each.path]
        if searches:
            _draw_tuner(axes, searches, PALETTE[index % len(PALETTE)], longest, first=index == 0)
    axes.set(xlabel="epochs of training", ylabel="best rate within the budget")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=8, loc="lower right")


def _draw_tuner(axes: Axes, searches: Sequence[SearchOutcome], colour: str, longest: int, *, first: bool) -> None:
    epochs = sorted({0, longest, *(point.epochs for each in searches for point in each.path)})
    reached = [[_at(each, moment) for each in searches] for moment in epochs]
    medians = [statistics.median(values) for values in reached]
    width = 2.4 if first else 1.3
    axes.step(
        epochs, medians, where="post", color=colour, linewidth=width, label=searches[0].tuner, zorder=4 if first else 3
    )
    if first:  # all bands above each other would hide one another
        low, high = [min(values) for values in reached], [max(values) for values in reached]
        axes.fill_between(epochs, low, high, step="post", color=colour, alpha=0.15, linewidth=0)


def _at(search: SearchOutcome, epochs: int) -> float:
    known = [point.best for point in search.path if point.epochs <= epochs and point.best is not None]
    return known[-1] if known else 0.0
