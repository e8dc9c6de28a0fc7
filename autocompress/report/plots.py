"""Plots of accuracy against how much smaller a model has become, and their style."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.data import ReportData, pareto_front, saved
from autocompress.report.verdict import at_rate, number

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


@dataclass(frozen=True)
class Plot:
    """A plot, which is drawn once however often it is written."""

    caption: str
    draw: Draw

    @cached_property
    def _figure(self) -> Figure:
        with rc_context(_STYLE):
            figure = Figure(figsize=_SIZE, layout="constrained", facecolor=PAPER)
            FigureCanvasAgg(figure)
            axes = figure.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(color=GRID, linewidth=0.7)
            axes.set_axisbelow(True)
            self.draw(axes)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # it has been laid out
        return figure

    @cached_property
    def _svg(self) -> str:
        written = io.StringIO()
        self._save(written, "svg")
        return written.getvalue()

    def svg(self, *, themed: bool = False) -> str:
        """The plot as an SVG element; `themed`: its colours are CSS variables of the page (`--ink`, ...)."""
        text = self._svg[self._svg.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        return _themed(text) if themed else text

    def png(self) -> bytes:
        """The plot as a PNG image."""
        written = io.BytesIO()
        self._save(written, "png")
        return written.getvalue()

    def write(self, path: Path) -> None:
        """Write the plot as `<path>.svg` and `<path>.png` on white."""
        path.with_suffix(".svg").write_text(self._svg, encoding="utf-8")
        path.with_suffix(".png").write_bytes(self.png())

    def _save(self, target: io.StringIO | io.BytesIO, kind: str) -> None:
        with rc_context(_STYLE):
            self._figure.savefig(target, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)


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

_MOST_ELEMENTS = 500
"""Of one kind in a plot."""

KINDS = (("within the budget", WITHIN, "o"), ("outside", OUTSIDE, "X"), ("failed", FAILED, "v"))
"""Label, colour and marker of each kind of trial."""

_COLOURS = {label: colour for label, colour, _ in KINDS}

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
    """Points of one colour, none where there are none; very many are one image, not an element of the SVG each."""
    points = list(points)
    if points:
        across, up = [point[0] for point in points], [point[1] for point in points]
        image = len(points) > _MOST_ELEMENTS
        axes.scatter(across, up, s=size, color=colour, marker=marker, label=label, zorder=3, rasterized=image)


_NEIGHBOURHOOD = 5
"""So many times the budget beyond the threshold an accuracy is an outlier."""
_LABEL = 0.09
"""Share of the plot's width that a value takes."""


@dataclass(frozen=True)
class AccuracyAxis:
    """The accuracies that a plot covers: the neighbourhood of the budget; all of them where none is in it."""

    low: float  # smallest on the axis
    high: float  # largest on the axis
    higher_is_better: bool  # direction of the metric: outliers are worse than everything on the axis

    @classmethod
    def of(cls, data: ReportData, accuracies: Iterable[float]) -> AccuracyAxis:
        """The axis for these accuracies, the uncompressed model's and the threshold."""
        plan = data.plan
        base, sign = plan.measured.accuracy, 1 if plan.measured.higher_is_better else -1
        margins = [sign * (accuracy - plan.threshold) for accuracy in accuracies]
        errors = [data.error_of(each) or 0.0 for each in (None, data.best)]
        within = [0.0, sign * (base - plan.threshold) + max(errors), *margins]
        budget = abs(base - plan.threshold) or abs(base) / 100 or 0.01
        near = max(margins, default=0.0) >= -_NEIGHBOURHOOD * budget
        low, high = max(min(within), -_NEIGHBOURHOOD * budget) if near else min(within), max(within)
        space = 0.08 * (high - low or budget)
        ends = sorted(plan.threshold + sign * end for end in (low - space, high + space))
        return cls(ends[0], ends[1], plan.measured.higher_is_better)

    @property
    def edge(self) -> float:
        """Where outliers are marked."""
        inside = 0.03 * (self.high - self.low)
        return self.low + inside if self.higher_is_better else self.high - inside

    def leaves_out(self, accuracy: float) -> bool:
        """Whether an accuracy is an outlier."""
        return accuracy < self.low if self.higher_is_better else accuracy > self.high

    def place(self, accuracy: float) -> float:
        """Where an accuracy is drawn."""
        return self.edge if self.leaves_out(accuracy) else accuracy

    def apply(self, axes: Axes) -> None:
        """Set the limits."""
        axes.set_ylim(self.low, self.high)

    def mark(self, axes: Axes, points: Sequence[tuple[float, float]], colours: Sequence[str]) -> None:
        """Mark those of the points that are outliers at the edge."""
        marked = [
            (point[0], colour) for point, colour in zip(points, colours, strict=True) if self.leaves_out(point[1])
        ]
        if marked:
            axes.scatter(
                [across for across, _ in marked],
                [self.edge] * len(marked),
                s=26,
                c=[colour for _, colour in marked],
                marker="v" if self.higher_is_better else "^",
                linewidths=0,
                zorder=4,
                rasterized=len(marked) > _MOST_ELEMENTS,
            )

    def label(self, axes: Axes, points: Sequence[tuple[float, float]]) -> None:
        """Write the values of outliers beside them, as far as there is room; the axes have their final limits."""
        low, high = axes.get_xlim()
        labelled = low - high
        for across, accuracy in sorted(point for point in points if self.leaves_out(point[1])):
            if across - labelled < _LABEL * (high - low):
                continue
            labelled = across
            sign, vertical = (1, "bottom") if self.higher_is_better else (-1, "top")
            place: Any = {"xytext": (0, 6 * sign), "textcoords": "offset points", "ha": "center", "va": vertical}
            axes.annotate(number(accuracy, 3), (across, self.edge), fontsize=8, color=FAINT, **place)


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
    """Accuracy against the objective's achieved reduction, with the budget line and standard errors."""

    def place(record: TrialRecord) -> tuple[float, float]:
        return data.reduction(record) or 0.0, record.accuracy or 0.0

    measured = [record for record in data.records if record.accuracy is not None]
    axis = AccuracyAxis.of(data, (place(record)[1] for record in measured))
    scatter_kinds(axes, [record for record in measured if not axis.leaves_out(place(record)[1])], place)
    axis.mark(axes, [place(record) for record in measured], [_COLOURS[kind(record)] for record in measured])
    _bars(data, axes, measured)
    scatter(axes, [(0.0, data.plan.measured.accuracy)], 36, "uncompressed", INK, "D")
    _error(axes, (0.0, data.plan.measured.accuracy), data.error_of(None))
    if data.best is not None:
        _error(axes, place(data.best), data.error_of(data.best))
    axis.apply(axes)
    axis.label(axes, [place(record) for record in measured])
    budget_line(data, axes)
    if data.best is not None:
        across, up = place(data.best)
        axes.scatter(across, up, s=130, facecolors="none", edgecolors=WITHIN, linewidths=1.6, label="best", zorder=4)
    axes.set(xlabel=f"achieved: {_OBJECTIVES[data.plan.objective]}", ylabel="accuracy")
    in_percent(axes)
    _legend(axes, data)


def _legend(axes: Axes, data: ReportData, columns: int = 1) -> None:
    """Where it hides least; to look for that among very many trials would take minutes."""
    place: Literal["best", "lower left"] = "best" if len(data.records) <= _MOST_ELEMENTS else "lower left"
    axes.legend(fontsize=8, ncols=columns, loc=place)


def _error(axes: Axes, point: tuple[float, float], error: float | None) -> None:
    """A standard error to each side of an accuracy, where it is known."""
    if error is not None:
        axes.errorbar(*point, error, color=INK, alpha=0.6, linewidth=1, capsize=3, zorder=2)


def _bars(data: ReportData, axes: Axes, records: list[TrialRecord]) -> None:
    for record in records if len(records) <= MANY else ():
        spread = data.spread(record)
        if spread is not None:
            axes.vlines(data.reduction(record) or 0.0, *spread, color=INK, alpha=0.3, linewidth=1.5)


def draw_pareto(data: ReportData, axes: Axes) -> None:
    """Accuracy against bytes saved of each algorithm's trials, and the front of all."""
    measured = [record for record in data.records if record.accuracy is not None and record.size_removed is not None]
    axis = AccuracyAxis.of(data, (saved(record)[1] for record in measured))
    of_algorithm = dict(zip(data.algorithms, colours(data.algorithms), strict=True))
    for name, colour in of_algorithm.items():
        points = [saved(each) for each in measured if each.algorithm == name]
        scatter(axes, (point for point in points if not axis.leaves_out(point[1])), 28, name, colour)
    axis.mark(axes, [saved(record) for record in measured], [of_algorithm[record.algorithm] for record in measured])
    front = [saved(each) for each in pareto_front(measured, higher_is_better=data.plan.measured.higher_is_better)]
    axes.plot([point[0] for point in front], [point[1] for point in front], color=INK, linewidth=1, zorder=2)
    axis.apply(axes)
    budget_line(data, axes)
    axes.set(xlabel="bytes saved", ylabel="accuracy")
    in_percent(axes)
    _legend(axes, data, columns=2)


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
    _legend(axes, data)


def draw_curves(data: ReportData, axes: Axes) -> None:
    """Accuracy over the epochs of each trial."""
    best = data.best.key if data.best else None
    drawn = [record for record in data.records if record.key in data.curves]
    axis = AccuracyAxis.of(data, (point[1] for record in drawn for point in _points(data, record)))
    for record in sorted(drawn, key=lambda each: each.key == best):  # the best trial's is drawn on top
        _curve(data, axes, record, axis, heavy=record.key == best)
    axis.apply(axes)
    budget_line(data, axes)
    axes.set(xlabel="epoch of the trial", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, data)


def _points(data: ReportData, record: TrialRecord) -> list[tuple[float, float]]:
    """Epoch and accuracy of a learning curve."""
    return [(point["epoch"], point["accuracy"]) for point in data.curves.get(record.key, ()) if "accuracy" in point]


def _curve(data: ReportData, axes: Axes, record: TrialRecord, axis: AccuracyAxis, *, heavy: bool) -> None:
    many, points = len(data.records) > MANY, _points(data, record)
    colour = WITHIN if record.feasible else OUTSIDE
    line = axes.plot([point[0] for point in points], [axis.place(point[1]) for point in points])[0]
    line.set(color=colour, linewidth=2.6 if heavy else 1.0)
    line.set(alpha=1.0 if heavy else 0.25 if many else 0.7)
    if heavy or not many:
        line.set(marker="o", markersize=5 if heavy else 2.5)
        axis.mark(axes, points, [colour] * len(points))
    if heavy:
        line.set_label(f"best: {at_rate(record.algorithm, record.requested_rate)}")


_OUTLIERS = " Triangles at the edge are further away."
_ACCURACY = (
    "Accuracy against what was achieved. A bar spans the accuracies that a trial had from epoch to epoch; one with "
    "caps is the standard error." + _OUTLIERS
)
_PATH = "The path of the search: the requested rate of each trial."
_CURVES = "Learning curves: accuracy at each evaluated epoch. The best trial's is drawn heavier." + _OUTLIERS
_PARETO = "Algorithms compared: nothing that was tried is both smaller and more accurate than the line." + _OUTLIERS


def plots(data: ReportData) -> dict[str, Plot]:
    """File name -> plot, of those that this experiment has data for."""
    drawn = {"accuracy": Plot(_ACCURACY, lambda axes: draw_accuracy(data, axes))}
    if data.records:
        drawn["path"] = Plot(_PATH, lambda axes: draw_path(data, axes))
    if any(len(curve) > 1 for curve in data.curves.values()):
        drawn["curves"] = Plot(_CURVES, lambda axes: draw_curves(data, axes))
    if len(data.algorithms) > 1:
        drawn["pareto"] = Plot(_PARETO, lambda axes: draw_pareto(data, axes))
    return drawn
