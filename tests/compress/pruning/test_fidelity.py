"""Importances rank by what they claim: their scores against the loss without each single channel, on trained nets.

The bounds lie below what each of five seeds of training gives (`python -m tests.benchmarks.fidelity`).
"""

import functools

import pytest
import torch

from autocompress.testing.fidelity import Measured, mean_fidelity, rank_correlation, scores
from autocompress.testing.trained import TRAINED, TrainedModule

AT_LEAST = {
    "residual": {"taylorfo": 0.5, "l1": 0.2, "l2": 0.2, "slim": 0.2, "mean_activation": 0.15},
    "without BatchNorm": {"taylorfo": 0.8, "l2": 0.35, "fpgm": 0.4, "mean_activation": 0.5, "apoz": 0.25},
    "MLP": {"taylorfo": 0.7, "l2": 0.6, "fpgm": 0.6, "mean_activation": 0.55, "apoz": 0.2},
    "transformer": {"taylorfo": 0.6, "l2": 0.5, "fpgm": 0.45, "mean_activation": 0.4},
}


@functools.cache
def measured(net):
    return Measured.of(TRAINED[net], TRAINED[net].loss)


@pytest.mark.parametrize(("net", "algorithm"), [(net, name) for net, names in AT_LEAST.items() for name in names])
def test_scores_rank_as_the_loss_does(net, algorithm):
    found = mean_fidelity(measured(net), algorithm)
    assert found >= AT_LEAST[net][algorithm], found
