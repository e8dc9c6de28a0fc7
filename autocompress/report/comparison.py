"""The outcome of each search of a comparison, and how many epochs it took: figures of its records."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.records import Record
from autocompress.report.data import ReportData

_CLOSE = 1e-9


@dataclass(frozen=True)
class Point(Record):
    """A search after one of its trials."""

    trials: int  # so far
    epochs: int  # of training so far
    best: float | None  # the highest reduction of the objective within the budget so far; None while there is none


@dataclass(frozen=True)
class SearchOutcome(Record):
    """The outcome of one search of a comparison.

    Attributes:
        tuner: as users name it.
        seed: of the tuner and of its trials.
        directory: of the experiment, relative to the comparison's.
        best_rate: the objective's highest achieved reduction within the budget; None where nothing was.
        requested_rate: of that trial.
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
        """The first point at which the search had this reduction within the budget; None if never."""
        return next((point for point in self.path if point.best is not None and point.best >= rate - _CLOSE), None)


def outcome(data: ReportData, tuner: str, directory: str, holdouts: Mapping[str, float]) -> SearchOutcome:
    """The outcome of a search, from its report data and the hold-out accuracies of its feasible trials by key."""
    best, verdict, threshold = data.best, data.verdict, data.holdout_threshold
    disproved = None if threshold is None else sum(data.margin(each, threshold) < 0 for each in holdouts.values())
    return SearchOutcome(
        tuner=tuner,
        seed=data.plan.settings.seed,
        directory=directory,
        best_rate=data.reduction(best) if best else None,
        requested_rate=best.requested_rate if best else None,
        accuracy=verdict.accuracy if verdict else None,
        holdout_accuracy=verdict.holdout_accuracy if verdict else None,
        feasible=sum(record.feasible for record in data.records),
        false_feasible=disproved,
        trials=len(data.records),
        epochs=sum(record.epochs for record in data.records),
        seconds=round(sum(record.seconds for record in data.records), 3),
        path=tuple(_path(data)),
    )


def _path(data: ReportData) -> Iterable[Point]:
    epochs, best = 0, None
    for number, record in enumerate(data.records, 1):
        epochs += record.epochs
        reached = data.reduction(record) if record.feasible else None
        best = reached if best is None else max(best, best if reached is None else reached)
        yield Point(number, epochs, best)


@dataclass(frozen=True)
class Spread:
    """A figure over several seeds."""

    median: float | None  # of those that have it; None where none has
    low: float | None  # the lowest of them
    high: float | None  # the highest
    missing: int  # how many seeds have none

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """The spread of these values."""
        values = list(values)
        known = [value for value in values if value is not None]
        if not known:
            return cls(None, None, None, len(values))
        return cls(statistics.median(known), min(known), max(known), len(values) - len(known))


@dataclass(frozen=True)
class TunerRow:
    """One tuner over all seeds; a figure that a seed has not is missing in its spread."""

    tuner: str  # as users name it
    best_rate: Spread  # the objective's highest reduction within the budget
    holdout_accuracy: Spread  # of that model
    trials_to_best: Spread  # trials until within one minimal step of the best known rate
    epochs_to_best: Spread  # the same in epochs of training
    false_feasible: Spread  # trials within the budget that are outside it on hold-out data
    trials: Spread  # in all
    epochs: Spread  # in all
    seconds: Spread  # wall time of its trials
    errors: tuple[str, ...]  # why seeds have no result

    @property
    def spreads(self) -> list[Spread]:
        """All spreads, in the order of the fields."""
        return [value for value in vars(self).values() if isinstance(value, Spread)]


_FIGURES = ("best_rate", "holdout_accuracy", "false_feasible", "trials", "epochs", "seconds")


def row(tuner: str, outcomes: Iterable[SearchOutcome], within_reach: float | None) -> TunerRow:
    """A tuner's row; `within_reach` is the rate that counts as the best known."""
    outcomes = list(outcomes)
    ended = [each for each in outcomes if each.error is None]
    reached = [None if within_reach is None else each.reaches(within_reach) for each in ended]
    return TunerRow(
        tuner=tuner,
        trials_to_best=Spread.of(getattr(point, "trials", None) for point in reached),
        epochs_to_best=Spread.of(getattr(point, "epochs", None) for point in reached),
        errors=tuple(dict.fromkeys(each.error for each in outcomes if each.error is not None)),
        **{name: Spread.of(getattr(each, name) for each in ended) for name in _FIGURES},
    )


@dataclass(frozen=True)
class Comparison(Record):
    """Tuners on the same module, budget, objective, trial runner and number of trials.

    Attributes:
        module: name of the user's class.
        objective: what trials are compared by.
        threshold: the worst tolerable accuracy.
        baseline_accuracy: of the uncompressed model.
        trials: the most trials of a search.
        minimal_step: what counts as close to the best known rate.
        engine: where NNI's tuners and ours ran: "nni-tuner" or "nni".
        versions: of Python and of the packages that matter.
        outcomes: of all searches.
    """

    module: str
    objective: str
    threshold: float
    baseline_accuracy: float
    trials: int
    minimal_step: float
    engine: str
    versions: dict[str, str]
    outcomes: tuple[SearchOutcome, ...]

    @property
    def best_known(self) -> float | None:
        """The highest rate within the budget that any search found."""
        return max((each.best_rate for each in self.outcomes if each.best_rate is not None), default=None)

    @property
    def rows(self) -> list[TunerRow]:
        """One row for each tuner: those that always came close to the best known rate first, by their epochs."""
        near = None if self.best_known is None else self.best_known - self.minimal_step
        names = dict.fromkeys(each.tuner for each in self.outcomes)
        rows = [row(name, (each for each in self.outcomes if each.tuner == name), near) for name in names]
        return sorted(rows, key=_sort_key)


def _sort_key(entry: TunerRow) -> tuple[Any, ...]:
    late = entry.epochs_to_best.median
    return bool(entry.errors), entry.epochs_to_best.missing, late is None, late or 0.0, -(entry.best_rate.median or 0.0)
