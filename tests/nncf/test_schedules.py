"""The levels of NNCF's schedules."""

import pytest

from autocompress.nncf import CompressionConfig
from autocompress.nncf.schedules import exponential_with_bias, schedule_of


def schedule(algorithm, init=0.0, **params):
    key = "pruning_init" if algorithm == "filter_pruning" else "sparsity_init"
    section = {"algorithm": algorithm, key: init, "params": params}
    return schedule_of(CompressionConfig.from_dict({"compression": section}).compression[0])


def levels(found, epochs):
    return [round(found.level(epoch), 6) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("algorithm", "init", "params", "wanted"),
    [
        (
            "magnitude_sparsity",
            0.1,
            {"schedule": "exponential", "sparsity_target": 0.5, "sparsity_target_epoch": 3},
            [0.1, 0.260136, 0.39178, 0.5, 0.5],
        ),
        (
            "magnitude_sparsity",
            0.0,
            {"schedule": "polynomial", "sparsity_target": 0.5, "sparsity_target_epoch": 4, "power": 2.0},
            [0.0, 0.21875, 0.375, 0.46875, 0.5, 0.5],
        ),
        (
            "magnitude_sparsity",
            0.1,
            {"sparsity_target": 0.5, "sparsity_target_epoch": 4, "power": 2.0, "concave": False},
            [0.1, 0.125, 0.2, 0.325, 0.5],
        ),
        (
            "rb_sparsity",
            0.0,
            {"schedule": "multistep", "multistep_steps": [1, 3], "multistep_sparsity_levels": [0.1, 0.3, 0.6]},
            [0.1, 0.3, 0.3, 0.6, 0.6],
        ),
        ("filter_pruning", 0.1, {"schedule": "baseline", "pruning_target": 0.3}, [0.3, 0.3]),
        ("filter_pruning", 0.1, {"schedule": "baseline", "pruning_target": 0.3, "num_init_steps": 2}, [0, 0, 0.3]),
        (
            "filter_pruning",
            0.0,
            {"schedule": "exponential", "pruning_target": 0.75, "pruning_steps": 2, "num_init_steps": 1},
            [0.0, 0.0, 0.5, 0.75, 0.75],
        ),
    ],
)
def test_the_level_of_each_epoch(algorithm, init, params, wanted):
    assert levels(schedule(algorithm, init, **params), len(wanted)) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("first", "target"), [(0.0, 0.5), (0.1, 0.6), (0.3, 0.5), (0.5, 0.5), (0.4, 0.42)])
def test_exponential_with_bias_rises_to_the_target(first, target):
    level = exponential_with_bias(first, target, 80)
    rising = [level(epoch) for epoch in range(101)]
    assert rising == sorted(rising)
    assert rising[0] == pytest.approx(first if target > first else target)
    assert rising[80:] == [target] * 21
    if 0.75 * target > first:
        assert level(10) == pytest.approx(0.75 * target, abs=1e-6), "three quarters after an eighth"


def test_the_adaptive_schedule_goes_by_steps():
    found = schedule("rb_sparsity", 0.1, schedule="adaptive", sparsity_target=0.22)
    assert found.adaptive
    assert levels(found, 5) == [0.1, 0.15, 0.2, 0.22, 0.22]
