"""The style of plots and how they are written, without matplotlib's global state."""

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
from matplotlib.ticker import PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.data import ReportData

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
