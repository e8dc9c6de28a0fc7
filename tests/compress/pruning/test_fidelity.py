"""Importances rank by what they claim: their scores against the loss without each single channel, on trained nets.

The bounds lie well below the means over seeds of training that `python -m tests.benchmarks.fidelity` prints.
"""

import functools

import pytest
import torch

from autocompress.testing.fidelity import Measured, mean_fidelity, rank_correlation, scores
from autocompress.testing.trained import TRAINED, TrainedModule

AT_LEAST = {
    "residual": {"taylorfo": 0.5, "l1": 0.2, "l2": 0.2, "slim": 0.2, "mean_activation": 0.15},
    "without BatchNorm": {"taylorfo": 0.8, "l2": 0.35, "fpgm": 0.4, "mean_activation": 0.5, "apoz": 0.25},
    "MLP": {"taylorfo": 0.7, "l2": 0.6, "fpgm": 0.5, "mean_activation": 0.55, "apoz": 0.2},
    "transformer": {"taylorfo": 0.5, "l2": 0.4, "fpgm": 0.35, "mean_activation": 0.4},
}


@functools.cache
def measured(net):
    return Measured.of(TRAINED[net], TRAINED[net].loss)


@pytest.mark.parametrize(("net", "algorithm"), [(net, name) for net, names in AT_LEAST.items() for name in names])
def test_scores_rank_as_the_loss_does(net, algorithm):
    found = mean_fidelity(measured(net), algorithm)
    assert found >= AT_LEAST[net][algorithm], found


@pytest.mark.parametrize("algorithm", ["taylorfo", "mean_activation", "apoz"])
@pytest.mark.parametrize("net", ["residual", "without BatchNorm"])
def test_scores_are_of_the_net_not_of_the_batches_or_of_rounding(net, algorithm):
    """Other pictures, and weights moved by a millionth of their size, give the same order nearly."""
    module = TRAINED[net]
    model = module.model()
    moved = module.model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.mul_(1 + 1e-6 * torch.randn(parameter.shape, generator=generator))
    halves = [_half(module, start) for start in (0, 320)]
    one, other = (scores(half, model, algorithm, training_batches=5) for half in halves)
    again = scores(halves[0], moved, algorithm, training_batches=5)
    for members, found in one.items():
        assert rank_correlation(found, other[members]) > 0.6, members
        assert rank_correlation(found, again[members]) > 0.99, members


def _half(module: type[TrainedModule], start: int) -> type[TrainedModule]:
    class Half(module):
        @classmethod
        def pictures(cls):
            return tuple(tensor[start : start + 320] for tensor in module.pictures())

        @classmethod
        def calibration_data(cls):
            return cls.data()

    return Half


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    first, second = [3.0, 1.0, 2.0, 2.0, 9.0, -1.0], [1.0, 0.0, 5.0, 5.0, 7.0, 7.0]
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.0


def test_a_channel_that_nothing_reads_costs_nothing():
    class Deaf(TRAINED["MLP"]):
        @classmethod
        def model(cls):
            model = super().model()
            with torch.no_grad():
                model[3].weight[:, 5] = 0.0
            return model

    first = next(damage for damage in Measured.of(Deaf, Deaf.loss).damages if damage.members == ("1",))
    assert first.losses[5] == pytest.approx(0.0, abs=1e-6)
    assert max(first.losses) > 1e-3
