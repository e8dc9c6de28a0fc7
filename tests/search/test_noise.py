"""Standard errors of accuracies: compared with the spread of simulated evaluations."""

import dataclasses
import itertools
import math
import random
import statistics

import numpy as np
import pytest

from autocompress.budget import AccuracyBudget
from autocompress.evaluation import Evaluation
from autocompress.records import Baseline, Measurement, Preflight, TrialRecord
from autocompress.search.noise import (
    AccuracyNoise,
    falling_fit,
    is_within_noise,
    mean_error,
    noise_of,
    paired_error,
    share_error,
    share_unit,
    trial_noise,
    with_accuracy_error,
)

ONE_PERCENT = AccuracyBudget(maximal_relative_accuracy_degradation=1.0)
MEASUREMENT = Measurement(100, 100, 1000, 400)


def outcomes(samples, uncompressed, lost, gained, random_state):
    """Right answers of the uncompressed model, and of one that loses and gains shares of them."""
    before = random_state.random(samples) < uncompressed
    draw = random_state.random(samples)
    return np.where(before, draw >= lost, draw < gained).astype(float), before.astype(float)


@pytest.mark.parametrize("slope", [1.0, 0.99, 0.8])
def test_the_paired_error_is_the_spread_over_bootstrap_replicates(slope):
    state = np.random.default_rng(0)
    after, before = outcomes(2000, 0.9, 0.03, 0.15, state)
    drawn = state.integers(0, 2000, size=(2000, 2000))
    spread = (after[drawn] - slope * before[drawn]).mean(axis=1).std()
    found = paired_error(after, before, slope)
    assert found == pytest.approx(spread, rel=0.05)
    assert found < 0.8 * share_error(after.mean(), 2000), "pairing is worth something"


def test_the_paired_error_is_the_spread_over_new_data():
    state = np.random.default_rng(1)
    margins, errors = [], []
    for _ in range(2000):
        after, before = outcomes(400, 0.9, 0.03, 0.15, state)
        margins.append(after.mean() - before.mean())
        errors.append(paired_error(after, before))
    assert statistics.mean(errors) == pytest.approx(statistics.stdev(margins), rel=0.05)


def test_equal_models_have_no_error_although_the_accuracy_has():
    values = [1.0, 0.0, 1.0, 1.0]
    assert paired_error(values, values) == 0
    assert mean_error(values) > 0


def test_of_right_answers_it_is_mcnemars():
    after, before = [1.0] * 90 + [0.0] * 7 + [1.0] * 3, [1.0] * 97 + [0.0] * 3  # 7 are lost and 3 are gained
    by_counts = math.sqrt(7 + 3 - (7 - 3) ** 2 / 100) / 100
    assert paired_error(after, before) == pytest.approx(by_counts * math.sqrt(100 / 99))


def test_other_samples_cannot_be_paired():
    with pytest.raises(ValueError, match="shorter"):
        paired_error([1.0, 0.0], [1.0])


@pytest.mark.parametrize(("accuracy", "unit"), [(0.9, 1.0), (0.5, 1.0), (97.0, 100.0)])
def test_the_error_of_a_share_is_the_spread_of_binomial_draws(accuracy, unit):
    draws = np.random.default_rng(0).binomial(400, accuracy / unit, size=20_000) / 400 * unit
    assert share_error(accuracy, 400, unit) == pytest.approx(draws.std(), rel=0.02)


def test_zeros_and_ones_have_the_error_of_their_share():
    assert mean_error([1.0] * 90 + [0.0] * 10) == pytest.approx(share_error(0.9, 100) * math.sqrt(100 / 99))
    assert mean_error([1.0]) is None, "one value says nothing of its deviation"


@pytest.mark.parametrize(
    ("accuracies", "samples", "unit"),
    [
        ([0.9], 400, 1.0),
        ([0.9, 0.25], 400, 1.0),
        ([90.0, 0.5], 400, 100.0),
        ([1.0], 400, 1.0),
        ([float(np.float32(123_457 / 300_000))], 300_000, 1.0),
        ([0.9012], 400, None),  # a mean over classes, a similarity
        ([0.9, 0.9012], 400, None),
        ([-0.5], 400, None),
        ([150.0], 400, None),
        ([0.9], 0, None),
    ],
)
def test_accuracies_that_are_shares_of_right_answers(accuracies, samples, unit):
    assert share_unit(accuracies, samples) == unit


def baseline(accuracy=0.9, accuracies=(0.9,), samples=None, sampling_error=None, **changes):
    preflight = Preflight(accuracies, None, None, 0.1, samples=samples, sampling_error=sampling_error)
    return dataclasses.replace(Baseline(accuracy, None, True, MEASUREMENT, "f", 0.1, preflight), **changes)


class TestOfAnAccuracyAlone:
    @pytest.mark.parametrize(
        ("measured", "error"),
        [
            (baseline(samples=400), 0.0125),
            (baseline(90.0, (90.0,), 400), 1.25 / 100 * 100),
            (baseline(accuracies=(0.9, 0.9, 0.9), samples=400), 0.0125),  # exactly repeated: says nothing of samples
            (baseline(accuracies=(0.9, 0.94), samples=400), 0.04 / math.sqrt(2)),
            (baseline(accuracies=(0.9, 0.94)), 0.04 / math.sqrt(2)),
            (baseline(accuracies=(0.9, 0.9)), None),
            (baseline(0.9012, (0.9012,), 400), None),
            (baseline(preflight=None), None),
        ],
    )
    def test_the_larger_of_samples_and_repetitions(self, measured, error):
        accuracy = 93.75 if measured.accuracy > 1 else 0.9375  # 375 of 400
        noise = AccuracyNoise.of(measured, ONE_PERCENT)
        expected = None if error is None else pytest.approx(error, rel=0.04)
        assert noise.of_accuracy(accuracy) == expected
        assert noise.of_margin(Evaluation(accuracy)) == expected

    def test_the_baselines_own(self):
        assert with_accuracy_error(baseline(samples=400), ONE_PERCENT).accuracy_error == pytest.approx(0.015)
        assert with_accuracy_error(baseline(sampling_error=0.02), ONE_PERCENT).accuracy_error == 0.02
        unknown = baseline(preflight=None)
        assert with_accuracy_error(unknown, ONE_PERCENT).accuracy_error is None
        values = [1.0] * 90 + [0.0] * 10
        assert with_accuracy_error(unknown, ONE_PERCENT, values).accuracy_error == mean_error(values)


class TestOfAMargin:
    values, others = (1.0, 0.0, 1.0, 0.0, 1.0), (1.0, 0.0, 1.0, 1.0, 1.0)

    @pytest.mark.parametrize(
        ("budget", "slope"),
        [
            (ONE_PERCENT, 0.99),
            (AccuracyBudget(maximal_relative_accuracy_degradation=20.0), 0.8),
            (AccuracyBudget(maximal_absolute_accuracy_degradation=0.2), 1.0),
        ],
    )
    def test_it_follows_the_threshold(self, budget, slope):
        noise = AccuracyNoise.of(baseline(), budget)
        assert noise.slope == pytest.approx(slope)
        found = noise.of_margin(Evaluation(0.6, self.values), self.others)
        assert found == pytest.approx(paired_error(self.values, self.others, slope))

    def test_without_the_uncompressed_values_it_is_that_of_the_accuracy(self):
        noise = AccuracyNoise.of(baseline(samples=5), ONE_PERCENT)
        for others in (None, (), self.others[:-1]):
            assert noise.of_margin(Evaluation(0.6, self.values), others) == mean_error(self.values)


def record(rate, margin, error=None, algorithm="l2"):
    return TrialRecord(
        f"{rate:.9f}", algorithm, "completed", achieved_rate=rate, accuracy_margin=margin, accuracy_error=error
    )


class TestOfTheTrials:
    def simulated(self, deviation, seed, trials=30):
        rng = random.Random(seed)
        rates = [rng.uniform(0.3, 0.9) for _ in range(trials)]
        return [record(rate, 0.02 * (0.6 - rate) + rng.gauss(0, deviation)) for rate in rates]

    @pytest.mark.parametrize("deviation", [0.003, 0.01])
    def test_it_is_the_deviation_around_a_falling_curve(self, deviation):
        found = [trial_noise(self.simulated(deviation, seed)) for seed in range(300)]
        assert statistics.median(found) == pytest.approx(deviation, rel=0.15)

    def test_a_search_of_ten_trials_tells_its_order_of_magnitude(self):
        found = [trial_noise(self.simulated(0.003, seed, trials=10)) for seed in range(300)]
        known = [each for each in found if each is not None]
        assert len(known) > 200
        assert statistics.median(known) == pytest.approx(0.003, rel=0.2)
        assert statistics.quantiles(known, n=10)[0] > 0.0015
        assert statistics.quantiles(known, n=10)[-1] < 0.0065

    def test_a_curve_that_falls_has_none(self):
        falling = [record(rate / 10, 0.1 - rate / 50) for rate in range(10)]
        assert trial_noise(falling) is None, "each trial has a level of its own: nothing is left to judge by"

    def test_models_that_are_destroyed_do_not_count(self):
        near = self.simulated(0.003, 0)
        destroyed = [record(0.95 + each / 1000, -0.8 + 0.1 * each) for each in range(4)]
        assert trial_noise([*near, *destroyed]) == pytest.approx(trial_noise(near), rel=0.3)

    def test_few_trials_say_nothing(self):
        assert trial_noise(self.simulated(0.003, 0)[:5]) is None
        assert trial_noise([]) is None

    def test_trials_without_an_accuracy_are_left_out(self):
        known = self.simulated(0.003, 0)
        failed = [dataclasses.replace(each, accuracy_margin=None) for each in known]
        assert trial_noise([*known, *failed]) == trial_noise(known)

    def test_the_larger_of_both(self):
        known = self.simulated(0.003, 0)
        shown = trial_noise(known)
        others = [
            dataclasses.replace(each, algorithm="level", accuracy_margin=5 * each.accuracy_margin) for each in known
        ]
        for error, larger in ((None, shown), (shown / 2, shown), (2 * shown, 2 * shown)):
            assert noise_of(record(0.5, 0.0, error), [*known, *others]) == larger
        assert noise_of(record(0.5, 0.0, 0.01), []) == 0.01
        assert noise_of(record(0.5, 0.0), []) is None


def test_the_falling_fit_is_the_nearest_of_all():
    levels = [0, 1, 2, 3]
    for values in ([3, 1, 2, 0], [0, 1, 2, 3], [1, 3, 2, 2], [3, 3, 0, 1]):
        fitted = falling_fit(values)
        assert all(a >= b for a, b in itertools.pairwise(fitted))
        falling = itertools.combinations_with_replacement(np.linspace(max(levels), 0, 13), len(values))
        nearest = min(sum((a - b) ** 2 for a, b in zip(values, curve, strict=True)) for curve in falling)
        assert sum((a - b) ** 2 for a, b in zip(values, fitted, strict=True)) <= nearest + 1e-9


@pytest.mark.parametrize(
    ("margin", "error", "within"),
    [(0.001, 0.003, True), (-0.003, 0.003, True), (0.004, 0.003, False), (0.0, None, False), (None, 0.003, False)],
)
def test_within_the_noise(margin, error, within):
    assert is_within_noise(margin, error) == within
