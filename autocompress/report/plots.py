"""Plots of accuracy against how much smaller a model has become."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.data import ReportData
from autocompress.report.format import at_rate
from autocompress.report.plot_style import (
    FAINT,
    INK,
    MANY,
    OUTSIDE,
    PALETTE,
    WITHIN,
    Draw,
    budget_line,
    colours,
    in_percent,
    scatter,
    scatter_kinds,
)

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
