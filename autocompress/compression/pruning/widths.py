"""How many filters remain: by layer, or by one ranking over all layers. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TOLERANCE = 0.01
"""Tolerance of a share of parameters or MACs."""

_TRIES = 14


@dataclass(frozen=True)
class CouplingWidth:
    """The widths of one coupling.

    Attributes:
        width: current number of channels.
        original: channels in the uncompressed model.
        parts: equal parts of the channels, each of which loses the same.
        members: number of layers that lose filters with it.
        rate: share to remove, relative to the uncompressed model.
    """

    width: int
    original: int
    parts: int
    members: int
    rate: float


def kept_filters(width: int, rate: float, groups: int = 1, round_to: int = 1, offset: float = 0.5) -> int:
    """Number of a layer's filters that remain: the nearest one, at least one per group, the same in each group.

    Args:
        width: filters of the layer in the uncompressed model.
        rate: share to remove, in [0, 1).
        groups: equal parts of the filters.
        round_to: the result is a multiple of it if the layer is wide enough.
        offset: 0.5 rounds to the nearest number, less rounds down earlier.
    """
    step = math.lcm(groups, round_to)
    return min(width, step * max(1, math.floor(round(width * (1 - rate) / step, 9) + offset)))


def local_widths(slots: Sequence[CouplingWidth], round_to: int = 1, *, staggered: bool = False) -> list[int]:
    """Channels that remain in each slot, every slot at its own rate.

    Slots that are `staggered` round at different points, so that a small change of the rate changes few of them.
    """
    offsets = [(index + 0.5) / len(slots) if staggered else 0.5 for index in range(len(slots))]
    return [
        min(slot.width, kept_filters(slot.original, slot.rate, slot.parts, round_to, offset))
        for slot, offset in zip(slots, offsets, strict=True)
    ]


def global_widths(slots: Sequence[CouplingWidth], scores: Sequence[Sequence[float]], round_to: int = 1) -> list[int]:
    """Channels that remain in each slot when all are ranked together, at one rate, each filter counted alike.

    Args:
        slots: the couplings.
        scores: for each slot, one per channel of one part, ascending, comparable between slots.
        round_to: see `kept_filters`; applied to each slot after the ranking.
    """
    wanted = sum(slot.rate * slot.original * slot.members for slot in slots)
    gone = sum((slot.original - slot.width) * slot.members for slot in slots)
    steps = [
        (score, index, slot.parts * slot.members)
        for index, (slot, ranked) in enumerate(zip(slots, scores, strict=True))
        for score in ranked[:-1]  # at least one remains
    ]
    removed, widths = [0] * len(slots), list[int]()
    for _, index, cost in sorted(steps):
        if gone + cost / 2 > wanted:
            break
        gone += cost
        removed[index] += 1
    for slot, count in zip(slots, removed, strict=True):
        left = slot.width - count * slot.parts
        rounded = kept_filters(slot.original, 1 - left / slot.original, slot.parts, round_to)
        widths.append(min(slot.width, rounded) if count else slot.width)
    return widths


def solve_rate(target: float, share: Callable[[float], float]) -> float:
    """The width rate in [0, 1) whose share of parameters or MACs removed is nearest to the target, by bisection."""
    low, high, rate = 0.0, 1.0 - 1e-9, 1 - math.sqrt(1 - target)
    seen: dict[float, float] = {}
    for _ in range(_TRIES):
        seen[rate] = share(rate)
        if abs(seen[rate] - target) <= TOLERANCE / 4:
            break
        low, high = (rate, high) if seen[rate] < target else (low, rate)
        rate = (low + high) / 2
    return min(seen, key=lambda tried: abs(seen[tried] - target))


def refine_widths(
    widths: Sequence[int],
    slots: Sequence[CouplingWidth],
    target: float,
    share: Callable[[Sequence[int]], float],
    round_to: int = 1,
) -> list[int]:
    """Make single slots a step wider or narrower while that brings the share removed nearer to the target."""
    best, gap = tuple(widths), abs(share(widths) - target)
    while gap > TOLERANCE:
        gaps = {tried: abs(share(tried) - target) for tried in _neighbours(best, slots, round_to)}
        nearest = min(gaps, key=gaps.__getitem__, default=best)
        if gaps.get(nearest, gap) >= gap:
            break
        best, gap = nearest, gaps[nearest]
    return list(best)


def _neighbours(widths: tuple[int, ...], slots: Sequence[CouplingWidth], round_to: int) -> Iterator[tuple[int, ...]]:
    for index, (width, slot) in enumerate(zip(widths, slots, strict=True)):
        step = math.lcm(slot.parts, round_to)
        narrower, wider = step * ((width - 1) // step), min(slot.width, step * (width // step + 1))
        for other in (narrower, wider):
            if other not in (0, width):
                yield (*widths[:index], other, *widths[index + 1 :])
