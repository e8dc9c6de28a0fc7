"""Accuracies in closed form: of the compression rate in [0, 1) and of the epochs trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Curve = Callable[[float, int], float]
"""(compression rate, epochs trained) -> accuracy."""


def cliff(edge: float, *, high: float = 0.9, low: float = 0.5, epochs_needed: int = 0) -> Curve:
    """`high` up to the edge, once enough epochs have been trained; `low` beyond it."""
    return lambda rate, epochs: high if rate <= edge + 1e-9 and (rate == 0 or epochs >= epochs_needed) else low


def knee(middle: float, *, top: float = 0.9, drop: float = 0.5, width: float = 0.03) -> Curve:
    """Flat, then falling by `drop` around `middle`."""
    return lambda rate, _: top - drop / (1 + math.exp(-(rate - middle) / width))


def flat(accuracy: float = 0.9) -> Curve:
    """Always the same: every rate is feasible."""
    return lambda _, __: accuracy


def never(*, top: float = 0.9, low: float = 0.1) -> Curve:
    """Good only while uncompressed and untrained: no rate is feasible."""
    return lambda rate, epochs: top if rate == 0 and epochs == 0 else low


def noisy(curve: Curve, noise: Sequence[float]) -> Curve:
    """Another curve with noise that goes by the epochs trained."""
    return lambda rate, epochs: curve(rate, epochs) + noise[epochs % len(noise)]
