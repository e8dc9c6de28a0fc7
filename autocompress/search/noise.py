"""How uncertain accuracies are: standard errors by the samples, by repeated evaluations, and by the trials seen."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autocompress.budget import AccuracyBudget
from autocompress.evaluation import Evaluation
from autocompress.records import Baseline, TrialRecord

_UNEVEN = 0.01
"""How far a share of right answers, times the number of samples, may be from a whole number."""
_FLOAT32 = 1e-6
"""Relative error of a share in float32."""


def share_unit(accuracies: Sequence[float], samples: int) -> float | None:
    """The unit of accuracies that are shares of right answers: 1, or 100 for percent; None where they are no shares.

    They are where each, times the number of samples, is a whole number of right answers. A mean over classes, a
    similarity or a loss is not, but by chance.
    """
    tolerated = max(_UNEVEN, _FLOAT32 * samples)
    for unit in (1.0, 100.0):
        counts = [each / unit * samples for each in accuracies]
        if samples and all(-tolerated <= each <= samples + tolerated for each in counts):
            return unit if all(abs(each - round(each)) <= tolerated for each in counts) else None
    return None


def share_error(accuracy: float, samples: int, unit: float = 1.0) -> float:
    """The standard error of a share of right answers p among n samples, sqrt(p (1 - p) / n), in its unit.

    That of a binomial distribution: the samples are drawn independently of each other.
    """
    share = min(max(accuracy / unit, 0.0), 1.0)
    return unit * math.sqrt(share * (1 - share) / samples)


def mean_error(values: Sequence[float]) -> float | None:
    """The standard error of a mean of independent values, their standard deviation / sqrt(n); None for one value.

    Of zeros and ones it is `share_error`, times sqrt(n / (n - 1)).
    """
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    return math.sqrt(math.fsum((each - mean) ** 2 for each in values) / (count - 1) / count)


def paired_error(values: Sequence[float], uncompressed: Sequence[float], slope: float = 1.0) -> float | None:
    """The standard error of the mean difference of two models on the same samples; None for one sample.

    That of the paired t-test (Student, "The probable error of a mean", Biometrika 6, 1908): the standard deviation of
    the differences / sqrt(n). What is hard or easy for both models cancels out. Of zeros and ones with b samples that
    only one and c that only the other model gets right it is McNemar's sqrt(b + c - (b - c)^2 / n) / n (Psychometrika
    12, 1947), times sqrt(n / (n - 1)).

    Args:
        values: of the samples with one model.
        uncompressed: the same with the uncompressed model, in the same order.
        slope: by which the threshold follows the uncompressed accuracy: 1 for an absolute budget.
    """
    return mean_error([value - slope * other for value, other in zip(values, uncompressed, strict=True)])


@dataclass(frozen=True)
class AccuracyNoise:
    """What is known of the uncertainty of accuracies before any trial.

    Attributes:
        samples: of which accuracies are shares of right answers; None where they are no shares, or it is not known.
        unit: of these shares, 1 or 100.
        repeated: standard deviation of repeated evaluations of one model; None: it was evaluated once.
        slope: by which the threshold follows the uncompressed accuracy.
    """

    samples: int | None = None
    unit: float = 1.0
    repeated: float | None = None
    slope: float = 1.0

    @classmethod
    def of(cls, baseline: Baseline, budget: AccuracyBudget) -> AccuracyNoise:
        """What the preflight found, and the slope of the budget."""
        slope = budget.threshold_slope(baseline.accuracy, higher_is_better=baseline.higher_is_better)
        preflight = baseline.preflight
        if preflight is None:
            return cls(slope=slope)
        unit = None if preflight.samples is None else share_unit([baseline.accuracy], preflight.samples)
        several = len(preflight.accuracies) > 1
        return cls(
            None if unit is None else preflight.samples,
            unit or 1.0,
            statistics.stdev(preflight.accuracies) if several else None,
            slope,
        )

    def of_accuracy(self, accuracy: float) -> float | None:
        """The standard error of an accuracy that is given alone; None where nothing is known of it.

        The larger of that of its samples and of the deviation of repeated evaluations. One that repeats itself exactly
        says nothing of the samples.
        """
        by_samples = None if self.samples is None else share_error(accuracy, self.samples, self.unit)
        return _larger(by_samples, self.repeated or None)

    def of_margin(self, evaluation: Evaluation, uncompressed: Sequence[float] | None = None) -> float | None:
        """The standard error of a trial's accuracy margin; None where nothing is known of it.

        Paired, where both models' values on the same samples are known; else that of the trial's accuracy, since the
        search takes the threshold as it is.

        Args:
            evaluation: of the trial's model.
            uncompressed: values of the samples with the uncompressed model; None: not known.
        """
        values = evaluation.values
        if values is None:
            return self.of_accuracy(evaluation.accuracy)
        if uncompressed is not None and len(uncompressed) == len(values):
            return paired_error(values, uncompressed, self.slope)
        return _larger(mean_error(values), self.repeated or None)


def with_accuracy_error(baseline: Baseline, budget: AccuracyBudget, values: Sequence[float] | None = None) -> Baseline:
    """A baseline with the standard error of its accuracy.

    Args:
        baseline: with its preflight, if there was one.
        budget: of the search.
        values: of the samples; by default what the preflight found of them.
    """
    found = None if baseline.preflight is None else baseline.preflight.sampling_error
    by_values = found if values is None else mean_error(values)
    noise = AccuracyNoise.of(baseline, budget)
    error = noise.of_accuracy(baseline.accuracy) if by_values is None else _larger(by_values, noise.repeated or None)
    return dataclasses.replace(baseline, accuracy_error=error)


def is_within_noise(margin: float | None, error: float | None) -> bool:
    """Whether an accuracy margin is at most one standard error to either side of the threshold."""
    return margin is not None and error is not None and abs(margin) <= error


def is_near_miss(margin: float | None, error: float | None, required: float = 0.0) -> bool:
    """Whether an accuracy margin is less than is required, by no more than one standard error."""
    return margin is not None and error is not None and required - error <= margin < required


def noise_of(record: TrialRecord, records: Iterable[TrialRecord]) -> float | None:
    """The standard error of a trial's accuracy margin; None where nothing is known of it.

    The larger of its own, by the samples, and of that which the trials of its algorithm show.

    Args:
        record: the trial.
        records: those that are known, of any algorithm; the trial may be among them.
    """
    return _larger(record.accuracy_error, trial_noise(each for each in records if each.algorithm == record.algorithm))


_FEWEST_TRIALS = 6
_FEWEST_FREE = 1.0
_NEIGHBOURHOOD = 3.0


def trial_noise(records: Iterable[TrialRecord]) -> float | None:
    """The standard deviation of trials' accuracy margins around a curve that falls with the rate; None for few trials.

    The curve is the isotonic least-squares fit to the margins over the achieved rates. Of n margins whose fit has d
    levels, the variance is the residual sum of squares / (n - 1.5 d) (Meyer and Woodroofe, "On the degrees of freedom
    in shape-restricted regression", Annals of Statistics 28, 2000). Trials far from the threshold, by more than three
    times the median distance, are left out: where a model is destroyed, accuracies scatter more than where verdicts
    are close.
    """
    points = [
        (record.achieved_rate, record.accuracy_margin)
        for record in records
        if record.achieved_rate is not None and record.accuracy_margin is not None
    ]
    if len(points) < _FEWEST_TRIALS:
        return None
    near = _NEIGHBOURHOOD * statistics.median(abs(margin) for _, margin in points)
    margins = [margin for _, margin in sorted(points) if abs(margin) <= near]
    fitted = falling_fit(margins)
    free = len(margins) - 1.5 * len(set(fitted))
    if len(margins) < _FEWEST_TRIALS or free < _FEWEST_FREE:
        return None
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(margins, fitted, strict=True)) / free)


def falling_fit(values: Sequence[float]) -> list[float]:
    """The sequence that never rises and is nearest to the values in least squares, by pooling adjacent violators.

    Source: Ayer, Brunk, Ewing, Reid and Silverman, "An empirical distribution function for sampling with incomplete
    information", Annals of Mathematical Statistics 26, 1955.
    """
    pools: list[tuple[float, int]] = []  # mean and size
    for value in values:
        mean, size = value, 1
        while pools and pools[-1][0] <= mean:
            before, count = pools.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]


def _larger(*errors: float | None) -> float | None:
    return max((each for each in errors if each is not None), default=None)
