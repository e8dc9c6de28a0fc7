"""What each search of a comparison came to, and after how many epochs: pure figures of its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autocompress.budget import accuracy_budget
from autocompress.records import Record
from autocompress.report.story import Story

_CLOSE = 1e-9


@dataclass(frozen=True)
class Point(Record):
    """A search after one of its trials.

    Attributes:
        trials: so far.
        epochs: of training so far.
        best: the highest reduction of the objective within the budget so far; None while there is none.
    """

    trials: int
    epochs: int
    best: float | None


@dataclass(frozen=True)
class SearchOutcome(Record):
    """What one search of a comparison came to.

    Attributes:
        tuner: as users name it.
        seed: of the tuner and of its trials.
        directory: of the experiment, relative to the comparison's.
        best_rate: the objective's highest achieved reduction within the budget; None where nothing was.
        requested_rate: what was asked there.
        accuracy: of that model, loaded afresh.
        holdout_accuracy: the same on hold-out data; None without such data.
        feasible: number of trials within the budget.
        false_feasible: how many of them are outside the same budget on hold-out data; None without such data.
        trials: number of trials.
        epochs: of training, of all trials.
        seconds: wall time of all trials.
        path: the search after each of its trials.
        error: why there is no result, and what to install if that helps; None where there is one.
    """

    tuner: str
    seed: int
    directory: str
    best_rate: float | None = None
    requested_rate: float | None = None
    accuracy: float | None = None
    holdout_accuracy: float | None = None
    feasible: int = 0
    false_feasible: int | None = None
    trials: int = 0
    epochs: int = 0
    seconds: float = 0.0
    path: tuple[Point, ...] = ()
    error: str | None = None

    def reaches(self, rate: float) -> Point | None:
        """When the search first had a reduction of so much within the budget; None if it never had."""
        return next((point for point in self.path if point.best is not None and point.best >= rate - _CLOSE), None)


def outcome(story: Story, tuner: str, directory: str, holdouts: Mapping[str, float]) -> SearchOutcome:
    """What a search came to.

    Args:
        story: the experiment's.
        tuner: as users name it.
        directory: of the experiment, relative to the comparison's.
        holdouts: accuracies on hold-out data by key of the feasible trials; empty without such data.
    """
    best, verdict = story.best, story.verdict
    return SearchOutcome(
        tuner=tuner,
        seed=story.settings["settings"]["seed"],
        directory=directory,
        best_rate=story.reduction(best) if best else None,
        requested_rate=best.requested_rate if best else None,
        accuracy=verdict.accuracy if verdict else None,
        holdout_accuracy=verdict.holdout_accuracy if verdict else None,
        feasible=sum(record.feasible for record in story.records),
        false_feasible=_false_feasible(story, holdouts),
        trials=len(story.records),
        epochs=sum(record.epochs for record in story.records),
        seconds=round(sum(record.seconds for record in story.records), 3),
        path=tuple(_path(story)),
    )


def _false_feasible(story: Story, holdouts: Mapping[str, float]) -> int | None:
    threshold = story.holdout_threshold
    if threshold is None:
        return None
    higher = story.baseline.higher_is_better
    return sum(accuracy_budget(found, threshold, higher_is_better=higher) < 0 for found in holdouts.values())


def _path(story: Story) -> Iterable[Point]:
    epochs, best = 0, None
    for number, record in enumerate(story.records, 1):
        epochs += record.epochs
        reached = story.reduction(record) if record.feasible else None
        best = reached if best is None else max(best, best if reached is None else reached)
        yield Point(number, epochs, best)
