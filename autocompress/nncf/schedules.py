"""How a compression level rises from epoch to epoch: NNCF's schedules as pure functions.

Source: the schedulers of NNCF 2.19's sparsity and pruning algorithms.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from dataclasses import dataclass

from autocompress.nncf.sections import FilterPruning, MagnitudeSparsity, RbSparsity

_SOONER, _SHARE = 1 / 8, 3 / 4
"""Exponential with bias: so much of the target after so much of the epochs."""
_TRIES = 200
ADAPTIVE_STEP = 0.05
"""Of the adaptive schedule: how far the level is raised once the masks have reached it."""


@dataclass(frozen=True)
class Schedule:
    """The level of each epoch.

    Attributes:
        level: from the epoch's index, from 0, to the level in [0, 1) that is in force while it is trained.
        initial: the level before the first epoch.
        target: the last level.
        freezes: the epoch from which masks stay as they are; None: never.
        adaptive: whether the level is raised only when the masks have reached it; `level` then is that of each step.
    """

    level: Callable[[int], float]
    initial: float
    target: float
    freezes: int | None = None
    adaptive: bool = False


def schedule_of(section: FilterPruning | MagnitudeSparsity | RbSparsity) -> Schedule:
    """The schedule that a section of a configuration describes."""
    return _pruning(section) if isinstance(section, FilterPruning) else _sparsity(section)


def _pruning(section: FilterPruning) -> Schedule:
    params, first = section.params, section.pruning_init
    target, waiting = params.target, params.num_init_steps
    rises = {
        "baseline": lambda _: target,
        "exponential": exponential(first, target, params.pruning_steps),
        "exponential_with_bias": exponential_with_bias(first, target, params.pruning_steps),
    }[params.schedule]
    return Schedule(lambda epoch: rises(epoch - waiting) if epoch >= waiting else 0.0, first, target)


def _sparsity(section: MagnitudeSparsity | RbSparsity) -> Schedule:
    params, first = section.params, section.sparsity_init
    levels = params.multistep_sparsity_levels or ()
    if params.schedule == "multistep":
        rises = multistep(params.multistep_steps, levels)
        return Schedule(rises, levels[0], levels[-1], params.sparsity_freeze_epoch)
    target, epochs = params.sparsity_target, params.sparsity_target_epoch
    rises = {
        "adaptive": lambda step: min(target, first + ADAPTIVE_STEP * step),
        "exponential": exponential(first, target, epochs),
        "polynomial": polynomial(first, target, epochs, params.power, concave=params.concave),
    }[params.schedule]
    return Schedule(rises, first, target, params.sparsity_freeze_epoch, adaptive=params.schedule == "adaptive")


def exponential(first: float, target: float, epochs: int) -> Callable[[int], float]:
    """What is left falls by the same factor in each epoch."""
    factor = (1 - target) / (1 - first)
    return lambda epoch: target if epoch >= epochs else 1 - (1 - first) * factor ** (epoch / epochs)


def polynomial(first: float, target: float, epochs: int, power: float, *, concave: bool) -> Callable[[int], float]:
    """Fast at first and then slower (concave), or the other way round, for a power above 1."""

    def level(epoch: int) -> float:
        done = min(1.0, epoch / epochs)
        if concave:
            return float(target - (target - first) * (1 - done) ** power)
        return float(first + (target - first) * done**power)

    return level


def multistep(steps: tuple[int, ...], levels: tuple[float, ...]) -> Callable[[int], float]:
    """The next level from each of the epochs on."""
    return lambda epoch: levels[bisect.bisect_right(steps, epoch)]


def exponential_with_bias(first: float, target: float, epochs: int) -> Callable[[int], float]:
    """A * exp(-k * epoch) + b through the first level, three quarters of the target after an eighth, and the target."""
    if target <= first:
        return lambda _: target
    speed = _speed((_SHARE * target - first) / (target - first))

    def level(epoch: int) -> float:
        return target if epoch >= epochs else first + (target - first) * _risen(speed, epoch / epochs)

    return level


def _risen(speed: float, done: float) -> float:
    """Share of the way, from 0 to 1."""
    return done if abs(speed) < 1e-9 else math.expm1(-speed * done) / math.expm1(-speed)


def _speed(share: float) -> float:
    """The speed at which that share of the way is made after an eighth of the epochs, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(_TRIES):
        middle = (low + high) / 2
        low, high = (middle, high) if _risen(middle, _SOONER) < share else (low, middle)
    return (low + high) / 2
