"""Plots of accuracy against how much smaller a model has become, and their style."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.data import ReportData
from autocompress.report.verdict import at_rate

INK, FAINT, GRID, PAPER = "#1c2430", "#5d6878", "#dde2e9", "#ffffff"
WITHIN, OUTSIDE, FAILED, ACCENT = "#0b7a53", "#b35309", "#a3232b", "#2456c4"
PALETTE = (ACCENT, WITHIN, OUTSIDE, "#7a3fb0", "#0a7488", "#a8286b", "#636a1e", FAILED)

_NAMES = {
    INK: "ink", FAINT: "faint", GRID: "grid", PAPER: "paper", WITHIN: "within", OUTSIDE: "outside", FAILED: "failed",
    ACCENT: "accent", **{colour: f"series{index}" for index, colour in enumerate(PALETTE) if index in (3, 4, 5, 6)},
}  # fmt: skip
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it takes the page's font, and can be searched
    "svg.hashsalt": "autocompress",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.facecolor": PAPER,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
}
_SIZE = (6.0, 3.6)

Draw = Callable[[Axes], None]
"""Draws into axes."""


def svg(draw: Draw, *, themed: bool = False) -> str:
    """A plot as an SVG element; `themed`: its colours are CSS variables (`--ink`, `--within`, ...) of the page."""
    written = io.StringIO()
    _save(draw, written, "svg", transparent=True)
    text = written.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return _themed(text) if themed else text


def write(draw: Draw, path: Path) -> None:
    """Write a plot as `<path>.svg` and `<path>.png` on white."""
    _save(draw, path.with_suffix(".svg"), "svg")
    _save(draw, path.with_suffix(".png"), "png")


def png(draw: Draw) -> bytes:
    """A plot as a PNG image."""
    written = io.BytesIO()
    _save(draw, written, "png")
    return written.getvalue()


def _save(draw: Draw, target: Path | io.StringIO | io.BytesIO, kind: str, *, transparent: bool = False) -> None:
    with rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained", facecolor=PAPER)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        draw(axes)
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(target, format=kind, dpi=160, transparent=transparent, metadata=metadata)


def _themed(text: str) -> str:
    for colour, name in _NAMES.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = (f"{72 * size:g}" for size in _SIZE)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    if "viewBox" not in text[:800]:
        text = text.replace("<svg ", f'<svg viewBox="0 0 {width} {height}" ', 1)
    return re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)


MANY = 40
"""More trials than these are drawn small, without bars."""

KINDS = (("within the budget", WITHIN, "o"), ("outside", OUTSIDE, "X"), ("failed", FAILED, "v"))
"""Label, colour and marker of each kind of trial."""

Place = Callable[[TrialRecord], tuple[float, float]]


def kind(record: TrialRecord) -> str:
    """The label of a trial's kind."""
    if record.accuracy is None:
        return "failed"
    return "within the budget" if record.feasible else "outside"


def scatter_kinds(axes: Axes, records: Sequence[TrialRecord], place: Place) -> None:
    """A point for each trial, in its kind's colour."""
    size = 14 if len(records) > MANY else 36
    for label, colour, marker in KINDS:
        points = [place(record) for record in records if kind(record) == label]
        scatter(axes, points, size, label, colour, marker)


def scatter(
    axes: Axes, points: Iterable[tuple[float, float]], size: float, label: str, colour: str, marker: str = "o"
) -> None:
    """Points of one colour, none where there are none."""
    points = list(points)
    if points:
        across, up = [point[0] for point in points], [point[1] for point in points]
        axes.scatter(across, up, s=size, color=colour, marker=marker, label=label, zorder=3)


def budget_line(data: ReportData, axes: Axes) -> None:
    """Draw the threshold, and shade what is beyond it."""
    axes.axhline(data.plan.threshold, color=ACCENT, linestyle=(0, (5, 3)), linewidth=1.2, label="budget", zorder=1)
    beyond = axes.get_ylim()[0 if data.plan.measured.higher_is_better else 1]
    axes.axhspan(data.plan.threshold, beyond, color=GRID, alpha=0.35, linewidth=0, zorder=0)


def in_percent(axis: Axes) -> None:
    """Format the horizontal axis in percent."""
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def colours(names: Sequence[str]) -> list[str]:
    """One colour for each name, repeated where there are many."""
    return [PALETTE[index % len(PALETTE)] for index in range(len(names))]


_OBJECTIVES = {
    "rate": "compression rate",
    "parameters": "parameters removed",
    "macs": "multiply-accumulates removed",
    "size": "bytes saved",
    "latency": "latency saved",
}


def draw_accuracy(data: ReportData, axes: Axes) -> None:
    """Accuracy against the objective's achieved reduction, with the budget line."""

    def place(record: TrialRecord) -> tuple[float, float]:
        return data.reduction(record) or 0.0, record.accuracy or 0.0

    measured = [record for record in data.records if record.accuracy is not None]
    scatter_kinds(axes, measured, place)
    _bars(data, axes, measured)
    scatter(axes, [(0.0, data.plan.measured.accuracy)], 36, "uncompressed", INK, "D")
    budget_line(data, axes)
    if data.best is not None:
        across, up = place(data.best)
        axes.scatter(across, up, s=130, facecolors="none", edgecolors=WITHIN, linewidths=1.6, label="best", zorder=4)
    axes.set(xlabel=f"achieved: {_OBJECTIVES[data.plan.objective]}", ylabel="accuracy")
    in_percent(axes)
    axes.legend(fontsize=8)


def _bars(data: ReportData, axes: Axes, records: list[TrialRecord]) -> None:
    for record in records if len(records) <= MANY else ():
        spread = data.spread(record)
        if spread is not None:
            axes.vlines(data.reduction(record) or 0.0, *spread, color=INK, alpha=0.3, linewidth=1.5)


def draw_pareto(data: ReportData, axes: Axes) -> None:
    """Accuracy against bytes saved of each algorithm's trials, and the front of all."""
    measured = [record for record in data.records if record.accuracy is not None and record.size_removed is not None]
    for colour, name in zip(colours(data.algorithms), data.algorithms, strict=True):
        scatter(axes, (_saved(each) for each in measured if each.algorithm == name), 28, name, colour)
    front = [_saved(each) for each in pareto_front(measured, higher_is_better=data.plan.measured.higher_is_better)]
    axes.plot([point[0] for point in front], [point[1] for point in front], color=INK, linewidth=1, zorder=2)
    budget_line(data, axes)
    axes.set(xlabel="bytes saved", ylabel="accuracy")
    in_percent(axes)
    axes.legend(fontsize=8, ncols=2)


def pareto_front(records: Iterable[TrialRecord], *, higher_is_better: bool) -> list[TrialRecord]:
    """The records that no other surpasses in both bytes saved and accuracy, by rising savings."""
    sign = 1.0 if higher_is_better else -1.0

    def rank(record: TrialRecord) -> tuple[float, float]:
        saved, accuracy = _saved(record)
        return saved, sign * accuracy

    front: list[TrialRecord] = []
    for record in sorted(records, key=rank, reverse=True):
        if not front or rank(record)[1] > rank(front[-1])[1]:
            front.append(record)
    return front[::-1]


def _saved(record: TrialRecord) -> tuple[float, float]:
    return record.size_removed or 0.0, record.accuracy or 0.0


def draw_path(data: ReportData, axes: Axes) -> None:
    """The requested rate over the trials, one line an algorithm; the achieved reduction where there is no rate."""
    numbers = {id(record): index for index, record in enumerate(data.records, 1)}

    def place(record: TrialRecord) -> tuple[float, float]:
        rate = record.requested_rate if record.requested_rate is not None else data.reduction(record)
        return numbers[id(record)], rate or 0.0

    named = 1 < len(data.algorithms) <= len(PALETTE)
    joined = list(zip(colours(data.algorithms), data.algorithms, strict=True))
    for colour, name in joined if len(data.records) <= MANY else ():
        points = [place(record) for record in data.records if record.algorithm == name]
        line = axes.plot([point[0] for point in points], [point[1] for point in points], linewidth=1.2)[0]
        line.set(color=colour if named else FAINT, label=name if named else "_")
    scatter_kinds(axes, data.records, place)
    axes.set(xlabel="trial", ylabel="rate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=8)


def draw_curves(data: ReportData, axes: Axes) -> None:
    """Accuracy over the epochs of each trial."""
    best = data.best.key if data.best else None
    for record in sorted(data.records, key=lambda each: each.key == best):  # the best trial's is drawn on top
        _curve(data, axes, record, heavy=record.key == best)
    budget_line(data, axes)
    axes.set(xlabel="epoch of the trial", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _curve(data: ReportData, axes: Axes, record: TrialRecord, *, heavy: bool) -> None:
    many = len(data.records) > MANY
    curve = [point for point in data.curves.get(record.key, ()) if "accuracy" in point]
    line = axes.plot([point["epoch"] for point in curve], [point["accuracy"] for point in curve])[0]
    line.set(color=WITHIN if record.feasible else OUTSIDE, linewidth=2.6 if heavy else 1.0)
    line.set(alpha=1.0 if heavy else 0.25 if many else 0.7)
    if heavy or not many:
        line.set(marker="o", markersize=5 if heavy else 2.5)
    if heavy:
        line.set_label(f"best: {at_rate(record.algorithm, record.requested_rate)}")


_ACCURACY = "Accuracy against what was achieved. A bar spans the accuracies that a trial had from epoch to epoch."
_PATH = "The path of the search: the requested rate of each trial."
_CURVES = "Learning curves: accuracy at each evaluated epoch. The best trial's is drawn heavier."
_PARETO = "Algorithms compared: nothing that was tried is both smaller and more accurate than the line."


def plots(data: ReportData) -> dict[str, tuple[str, Draw]]:
    """File name -> caption and plot, of those that this experiment has data for."""
    drawn: dict[str, tuple[str, Draw]] = {"accuracy": (_ACCURACY, lambda axes: draw_accuracy(data, axes))}
    if data.records:
        drawn["path"] = (_PATH, lambda axes: draw_path(data, axes))
    if any(len(curve) > 1 for curve in data.curves.values()):
        drawn["curves"] = (_CURVES, lambda axes: draw_curves(data, axes))
    if len(data.algorithms) > 1:
        drawn["pareto"] = (_PARETO, lambda axes: draw_pareto(data, axes))
    return drawn
