"""Plots of what happened over trials and epochs."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.drawing import FAINT, OUTSIDE, PALETTE, WITHIN
from autocompress.report.marks import MANY, budget_line, colours, scatter_kinds
from autocompress.report.phrases import at_rate
from autocompress.report.story import Story


def draw_path(story: Story, axes: Axes) -> None:
    """The requested rate over the trials, one line an algorithm; the achieved reduction where there is no rate."""
    numbers = {id(record): index for index, record in enumerate(story.records, 1)}

    def place(record: TrialRecord) -> tuple[float, float]:
        rate = record.requested_rate if record.requested_rate is not None else story.reduction(record)
        return numbers[id(record)], rate or 0.0

    named = 1 < len(story.algorithms) <= len(PALETTE)
    joined = list(zip(colours(story.algorithms), story.algorithms, strict=True))
    for colour, name in joined if len(story.records) <= MANY else ():
        points = [place(record) for record in story.records if record.algorithm == name]
        line = axes.plot([point[0] for point in points], [point[1] for point in points], linewidth=1.2)[0]
        line.set(color=colour if named else FAINT, label=name if named else "_")
    scatter_kinds(axes, story.records, place)
    axes.set(xlabel="trial", ylabel="rate")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(fontsize=8)


def draw_curves(story: Story, axes: Axes) -> None:
    """Accuracy over the epochs of each trial."""
    best = story.best.key if story.best else None
    for record in sorted(story.records, key=lambda each: each.key == best):  # the best one's lies above all
        _curve(story, axes, record, heavy=record.key == best)
    budget_line(story, axes)
    axes.set(xlabel="epoch of the trial", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8)


def _curve(story: Story, axes: Axes, record: TrialRecord, *, heavy: bool) -> None:
    many = len(story.records) > MANY
    curve = [point for point in story.curves.get(record.key, ()) if "accuracy" in point]
    line = axes.plot([point["epoch"] for point in curve], [point["accuracy"] for point in curve])[0]
    line.set(color=WITHIN if record.feasible else OUTSIDE, linewidth=2.6 if heavy else 1.0)
    line.set(alpha=1.0 if heavy else 0.25 if many else 0.7)
    if heavy or not many:
        line.set(marker="o", markersize=5 if heavy else 2.5)
    if heavy:
        line.set_label(f"best: {at_rate(record.algorithm, record.requested_rate)}")
