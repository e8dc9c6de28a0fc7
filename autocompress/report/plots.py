"""The plots of an experiment, each with what is said below it."""

from __future__ import annotations

from autocompress.report.comparing import draw_accuracy, draw_pareto
from autocompress.report.drawing import Draw
from autocompress.report.over_time import draw_curves, draw_path
from autocompress.report.story import Story

_ACCURACY = "Accuracy against what was achieved. A bar spans the accuracies that a trial had from epoch to epoch."
_PATH = "The path of the search: the rate asked of each trial."
_CURVES = "Learning curves: accuracy at each evaluated epoch. The best trial's is drawn heavier."
_PARETO = "Algorithms compared: nothing that was tried is both smaller and more accurate than the line."


def plots(story: Story) -> dict[str, tuple[str, Draw]]:
    """File name -> caption and plot, of those that this experiment has something for."""
    drawn: dict[str, tuple[str, Draw]] = {"accuracy": (_ACCURACY, lambda axes: draw_accuracy(story, axes))}
    if story.records:
        drawn["path"] = (_PATH, lambda axes: draw_path(story, axes))
    if any(len(curve) > 1 for curve in story.curves.values()):
        drawn["curves"] = (_CURVES, lambda axes: draw_curves(story, axes))
    if len(story.algorithms) > 1:
        drawn["pareto"] = (_PARETO, lambda axes: draw_pareto(story, axes))
    return drawn
