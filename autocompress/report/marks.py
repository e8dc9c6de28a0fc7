"""What several plots share: points by verdict, the budget line, colours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from autocompress.records import TrialRecord
from autocompress.report.drawing import ACCENT, FAILED, GRID, OUTSIDE, PALETTE, WITHIN
from autocompress.report.story import Story

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


def budget_line(story: Story, axes: Axes) -> None:
    """The worst tolerable accuracy; beyond it is shaded."""
    axes.axhline(story.threshold, color=ACCENT, linestyle=(0, (5, 3)), linewidth=1.2, label="budget", zorder=1)
    beyond = axes.get_ylim()[0 if story.baseline.higher_is_better else 1]
    axes.axhspan(story.threshold, beyond, color=GRID, alpha=0.35, linewidth=0, zorder=0)


def in_percent(axis: Axes) -> None:
    """Shares along the horizontal axis are written in percent."""
    axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def colours(names: Sequence[str]) -> list[str]:
    """One for each name; they repeat where there are many."""
    return [PALETTE[index % len(PALETTE)] for index in range(len(names))]
