"""The pictures of a search in the documentation: `python -m tests.benchmarks.pictures DIR`.

DIR is the directory of a search with one algorithm, such as `autocompress demo --out DIR` makes. Writes `search.png`,
the rates in their order, and `report.png`, the top of the report in Chromium.
"""

import argparse
import itertools
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autocompress.report.plots import ACCENT, FAINT, GRID, INK, OUTSIDE, WITHIN
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

TARGET = Path(__file__).parents[2] / "docs" / "pages" / "pictures"


def draw_search(result, path):
    """Rates over trials, and what the accuracy came to."""
    records, threshold = result.records, result.threshold
    with rc_context({"font.size": 11, "text.color": INK, "axes.edgecolor": GRID, "xtick.color": FAINT}):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        path_axes, budget_axes = figure.subplots(1, 2, width_ratios=(1.2, 1))
        _path(path_axes, records, result.best)
        _budget(budget_axes, records, threshold, result.baseline.accuracy, result.best)
        figure.savefig(path, dpi=160)


def _path(axes, records, best):
    rates = [record.requested_rate for record in records]
    numbers = range(1, len(rates) + 1)
    axes.plot(numbers, rates, color=GRID, linewidth=2, zorder=1)
    for number, record in zip(numbers, records, strict=True):
        _mark(axes, number, record.requested_rate, record)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    for number, (before, after) in enumerate(itertools.pairwise(rates), 1):
        middle = (number + 0.5, (before + after) / 2)
        step = f"{after - before:+.3g}".replace("-", "\N{MINUS SIGN}")
        axes.text(*middle, step, ha="center", va="center", color=FAINT, fontsize=9, bbox=box)
    axes.set(xlabel="trial", xticks=list(numbers), xlim=(0.6, len(rates) + 0.9))
    axes.set_title("The rate rises while trials are within the budget", loc="left", fontsize=11)
    _percent(axes.yaxis)
    _plain(axes)
    axes.annotate(
        "the result", (rates.index(best.requested_rate) + 1, best.requested_rate), xytext=(8, 14),
        textcoords="offset points", ha="center", color=WITHIN, fontweight="bold",
    )  # fmt: skip


def _budget(axes, records, threshold, uncompressed, best):
    axes.axhline(threshold, color=ACCENT, linestyle="--", linewidth=1.4)
    removed = [record.parameters_removed for record in records]
    left = min(removed) - 0.02
    axes.annotate("accuracy budget", (left, threshold), xytext=(2, -14), textcoords="offset points", color=ACCENT)
    axes.axhline(uncompressed, color=GRID, linewidth=1.4, zorder=0)
    axes.annotate("uncompressed", (left, uncompressed), xytext=(2, 5), textcoords="offset points", color=FAINT)
    for record in records:
        _mark(axes, record.parameters_removed, record.accuracy, record)
    axes.set(xlabel="parameters removed", xlim=(left, 1.0))
    axes.set_title("Accuracy of each trial", loc="left", fontsize=11)
    axes.margins(y=0.18)
    axes.annotate(
        f"{best.parameters_removed:.1%}", (best.parameters_removed, best.accuracy), xytext=(10, -4),
        textcoords="offset points", ha="left", color=WITHIN, fontweight="bold",
    )  # fmt: skip
    _percent(axes.xaxis)
    _plain(axes)


def _mark(axes, x, y, record):
    kind = {"color": WITHIN, "marker": "o"} if record.feasible else {"color": OUTSIDE, "marker": "X"}
    axes.scatter([x], [y], s=85, zorder=4, **kind)


def _percent(axis):
    axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _plain(axes):
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT, length=0)
    axes.xaxis.label.set_color(FAINT)


def take_report(page, path):
    """The top of the report, as a browser shows it."""
    from tests.e2e.browser import looking

    with looking(page, 900) as look:
        look.page.screenshot(path=path, clip={"x": 0, "y": 0, "width": 900, "height": 815}, full_page=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    result = CompressionResult(ExperimentDirectory(directory))
    draw_search(result, TARGET / "search.png")
    take_report(result.report(), TARGET / "report.png")
