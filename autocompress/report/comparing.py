"""Plots of accuracy against how much smaller a model has become."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes

from autocompress.records import TrialRecord
from autocompress.report.drawing import INK, WITHIN
from autocompress.report.marks import MANY, budget_line, colours, in_percent, scatter, scatter_kinds
from autocompress.report.story import Story

_OBJECTIVES = {
    "rate": "compression rate",
    "parameters": "parameters removed",
    "macs": "multiply-accumulates removed",
    "size": "bytes saved",
    "latency": "latency saved",
}


def draw_accuracy(story: Story, axes: Axes) -> None:
    """Accuracy against the objective's achieved reduction, with the budget line."""

    def place(record: TrialRecord) -> tuple[float, float]:
        return story.reduction(record) or 0.0, record.accuracy or 0.0

    measured = [record for record in story.records if record.accuracy is not None]
    scatter_kinds(axes, measured, place)
    _bars(story, axes, measured)
    scatter(axes, [(0.0, story.baseline.accuracy)], 36, "uncompressed", INK, "D")
    budget_line(story, axes)
    if story.best is not None:
        across, up = place(story.best)
        axes.scatter(across, up, s=130, facecolors="none", edgecolors=WITHIN, linewidths=1.6, label="best", zorder=4)
    axes.set(xlabel=f"achieved: {_OBJECTIVES[story.objective]}", ylabel="accuracy")
    in_percent(axes)
    axes.legend(fontsize=8)


def _bars(story: Story, axes: Axes, records: list[TrialRecord]) -> None:
    for record in records if len(records) <= MANY else ():
        spread = story.spread(record)
        if spread is not None:
            axes.vlines(story.reduction(record) or 0.0, *spread, color=INK, alpha=0.3, linewidth=1.5)


def draw_pareto(story: Story, axes: Axes) -> None:
    """Accuracy against bytes saved of each algorithm's trials, and the front of all."""
    measured = [record for record in story.records if record.accuracy is not None and record.size_removed is not None]
    for colour, name in zip(colours(story.algorithms), story.algorithms, strict=True):
        scatter(axes, (_saved(each) for each in measured if each.algorithm == name), 28, name, colour)
    front = [_saved(each) for each in pareto_front(measured, higher_is_better=story.baseline.higher_is_better)]
    axes.plot([point[0] for point in front], [point[1] for point in front], color=INK, linewidth=1, zorder=2)
    budget_line(story, axes)
    axes.set(xlabel="bytes saved", ylabel="accuracy")
    in_percent(axes)
    axes.legend(fontsize=8, ncols=2)


def pareto_front(records: Iterable[TrialRecord], *, higher_is_better: bool) -> list[TrialRecord]:
    """The records that no other one surpasses in both bytes saved and accuracy, from the smallest saving on."""
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
