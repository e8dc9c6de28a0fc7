"""Which filters to remove at a rate: widths by layer or by one ranking, of filters, parameters or MACs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.layers import PRUNED_TYPES, layer_rates
from autocompress.compression.measure import macs, parameters
from autocompress.compression.model_state import copy_model
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.groups import Coupling, removals, remove
from autocompress.compression.pruning.importance import comparable, ranked_couplings
from autocompress.compression.pruning.pruner import PROBED, pruner_of
from autocompress.compression.pruning.sensitivity import (
    least_important,
    measured_in_place,
    removal_damage,
    rising_slopes,
)
from autocompress.errors import CompressionError

TOLERANCE = 0.01
"""Tolerance of a share of parameters or MACs."""

_TRIES = 14
_LEAST_SHARE = 1e-12


@dataclass(frozen=True)
class CouplingWidth:
    """The widths of one coupling.

    Attributes:
        width: current number of channels.
        original: channels in the uncompressed model.
        parts: equal parts of the channels, each of which loses the same.
        members: number of layers that lose filters with it.
        rate: share to remove, relative to the uncompressed model.
        least: channels that stay at any rate.
    """

    width: int
    original: int
    parts: int
    members: int
    rate: float
    least: int = 1


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

    A higher rate removes what a lower one does, and more.

    Args:
        slots: the couplings.
        scores: for each slot, one per channel of one part, ascending, comparable between slots; a slot keeps its
            `least` channels, and one of each part.
        round_to: see `kept_filters`; applied to each slot after the ranking.
    """
    wanted = sum(slot.rate * slot.original * slot.members for slot in slots)
    gone = sum((slot.original - slot.width) * slot.members for slot in slots)
    steps = [
        (score, index, slot.parts * slot.members)
        for index, (slot, ranked) in enumerate(zip(slots, scores, strict=True))
        for score in ranked[: max(0, slot.width - max(slot.least, slot.parts)) // slot.parts]
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
            if other not in (0, width) and other >= slot.least:
                yield (*widths[:index], other, *widths[index + 1 :])


@dataclass(frozen=True)
class ModelShare:
    """Measures a rate that counts parameters or MACs of the whole model.

    Attributes:
        of: "parameters" or "macs".
        total: of the uncompressed model.
        request: its example inputs are used.
    """

    of: str
    total: int
    request: CompressionRequest

    @classmethod
    def requested(cls, model: nn.Module, request: CompressionRequest) -> ModelShare | None:
        """The share that a request's rate counts; None: filters."""
        of = str(request.argument("rate_of"))
        if of == "filters":
            return None
        if request.uncompressed is not None:
            return cls(of, getattr(request.uncompressed, of), request)
        return cls(of, _counted(model, of, request), request)

    def removed(self, model: nn.Module) -> float:
        """The share that was removed."""
        return 1 - _counted(model, self.of, self.request) / self.total if self.total else 0.0


def _counted(model: nn.Module, of: str, request: CompressionRequest) -> int:
    return parameters(model) if of == "parameters" else macs(model, request.example_inputs)


_NARROWEST = 1 - 1e-9


@dataclass(frozen=True)
class PruningPlan:
    """Filters that can be removed from a model, ranked. Valid until the model changes.

    Attributes:
        model: not changed yet.
        request: with rules and arguments.
        channels: of the model.
        rates: layer -> requested rate.
        couplings: what can be removed.
        scores: of each coupling, one per channel of a part; the lowest are removed first.
        left_alone: selected layer -> why it keeps its filters.
        order: of each coupling, what removing one channel of each part after the other costs; comparable between
            couplings; empty where each has the rate.
    """

    model: nn.Module
    request: CompressionRequest
    channels: Channels
    rates: Mapping[str, float]
    couplings: tuple[Coupling, ...]
    scores: tuple[list[float], ...]
    left_alone: Mapping[str, str]
    order: tuple[list[float], ...] = ()

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, channels: Channels) -> PruningPlan:
        """Rank the channels of a model, whose parameters require gradients if the algorithm trains.

        Raises:
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """
        rates = layer_rates(model, request.targets, PRUNED_TYPES, request.scopes)
        ranked, left_alone = ranked_couplings(model, request, channels)
        couplings, scores = tuple(coupling for coupling, _ in ranked), tuple(scores for _, scores in ranked)
        left_alone = {**channels.obstacles, **channels.left_alone, **left_alone}
        return cls(model, request, channels, rates, couplings, scores, left_alone)._ordered()

    def _ordered(self) -> PruningPlan:
        """With the order in which all couplings lose their channels, where that is one."""
        allocation = pruner_of(self.request).allocation(self.request)
        if allocation == "global":
            return replace(self, order=tuple(self._benefits()))
        if allocation not in PROBED:
            return self
        plan = self._by_sensitivity()
        return plan if allocation == "sensitivity" else replace(plan, order=tuple(plan._least_damage()))

    def _benefits(self) -> Iterator[list[float]]:
        """Scores that are comparable between couplings: of the loss by what a channel frees, if a rate counts that.

        Scores that are relative to their layer say nothing of the loss; divided by costs they would empty the layers
        where channels are expensive.
        """
        estimates_loss = pruner_of(self.request).estimates_loss
        share = ModelShare.requested(self.model, self.request) if estimates_loss else None
        for coupling, scores in zip(self.couplings, self.scores, strict=True):
            cost = None if share is None else self._unit_cost(coupling, scores, share)
            yield comparable(coupling, scores, estimates_loss=estimates_loss, cost=cost)

    def _unit_cost(self, coupling: Coupling, scores: Sequence[float], share: ModelShare) -> float:
        """The share of the model that goes with one channel of each part, at the current widths."""
        smaller = copy_model(self.model)
        remove(smaller, removals([(coupling, least_important(coupling, scores, coupling.channel_groups))]))
        return share.removed(smaller) - share.removed(self.model)

    def _by_sensitivity(self) -> PruningPlan:
        """In the order of the damage; couplings of which that is not known keep their filters."""
        ranked = list(zip(self.couplings, self.scores, strict=True))
        known = self.request.sensitivity or measured_in_place(self.model, self.request, ranked)
        unknown = {
            coupling.members[0]: f"{coupling.members[0]}: its sensitivity is not known; it keeps its filters"
            for coupling in self.couplings
            if known.of(coupling.members[0]) is None
        }
        plan = self.without(unknown)
        found = [(slot, known.of(each.members[0])) for slot, each in zip(plan._slots(0.0), plan.couplings, strict=True)]
        order = (removal_damage(own, slot.width, slot.original, slot.parts) for slot, own in found if own is not None)
        return replace(plan, order=tuple(order), request=replace(self.request, sensitivity=known))

    def _least_damage(self) -> Iterator[list[float]]:
        """What each removal adds to the damage, by what it frees of what the rate counts."""
        share = ModelShare.requested(self.model, self.request)
        slots = self._slots(0.0)
        for slot, coupling, scores, damage in zip(slots, self.couplings, self.scores, self.order, strict=True):
            free = None if share is None else self._unit_cost(coupling, scores, share)
            known = self.request.sensitivity and self.request.sensitivity.of(coupling.members[0])
            start = known.at(slot.width / slot.original) if known else 0.0
            cost = float(slot.parts * slot.members) if free is None else max(free, _LEAST_SHARE)
            yield [slope / cost for slope in rising_slopes(start, damage)]

    def without(self, reasons: Mapping[str, str]) -> PruningPlan:
        """Without couplings, given as their root layers with the reasons."""
        left_alone = dict(self.left_alone)
        for coupling in self.couplings:
            if coupling.members[0] in reasons:
                left_alone |= dict.fromkeys(coupling.members, reasons[coupling.members[0]])
        stays = [coupling.members[0] not in reasons for coupling in self.couplings]
        return replace(
            self,
            couplings=tuple(itertools.compress(self.couplings, stays)),
            scores=tuple(itertools.compress(self.scores, stays)),
            order=tuple(itertools.compress(self.order, stays)),
            left_alone=left_alone,
        )

    def verified(
        self, share: ModelShare | None, verifier: CutVerifier | None = None
    ) -> tuple[PruningPlan, list[tuple[Coupling, list[int]]]]:
        """What to remove at the requested rates, verified against the reference model.

        Returns:
            the plan without the couplings that cannot be removed correctly, and the channels to remove.

        Raises:
            CompressionError: the share cannot be reached.
        """
        plan, verifier = self, verifier or CutVerifier(self.model, self.request.example_inputs)
        while True:
            chosen = plan.channels_to_remove(plan.remaining_for(share))
            if verifier.mismatch(removals(chosen)) is None:
                return plan, chosen
            if plan.channels.is_verified:
                faulty = verifier.find_faulty(chosen)
                if not faulty:
                    return plan, chosen
                plan = plan.without(faulty)
            else:
                plan = PruningPlan.of(self.model, self.request, plan.channels.with_verified(self.model, self.request))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the layers with a rate, without output layers and those that keep the residual width."""
        return tuple(name for name in self.rates if name not in self.channels.outputs | self.channels.residual)

    def channels_to_remove(self, kept: Sequence[int]) -> list[tuple[Coupling, list[int]]]:
        """The couplings that lose channels, with the channels to remove, so that so many remain."""
        return [
            (coupling, least_important(coupling, scores, coupling.width - count))
            for coupling, count, scores in zip(self.couplings, kept, self.scores, strict=True)
            if count < coupling.width
        ]

    def remaining_for(self, share: ModelShare | None) -> list[int]:
        """Channels that remain of each coupling at the requested rates, which count filters or a share of the model."""
        return self.remaining_at() if share is None else self.remaining_for_share(share)

    def remaining_at(self, width: float | None = None) -> list[int]:
        """Channels that remain of each coupling, at one width rate for all or at the requested ones."""
        slots, round_to = self._slots(width), int(self.request.argument("round_to"))
        if self.order:
            return global_widths(slots, self.order, round_to)
        return local_widths(slots, round_to, staggered=width is not None)

    def remaining_for_share(self, share: ModelShare) -> list[int]:
        """Channels that remain of each coupling so that the requested share of parameters or MACs is removed.

        One width rate for all layers; single layers are a step wider or narrower if that is too coarse.

        Raises:
            CompressionError: the share cannot be reached.
        """
        target, found = max(self.rates.values()), dict[tuple[int, ...], float]()

        def removed(kept: Sequence[int]) -> float:
            if tuple(kept) not in found:
                probe = copy_model(self.model)
                remove(probe, removals(self.channels_to_remove(kept)))
                found[tuple(kept)] = share.removed(probe)
            return found[tuple(kept)]

        most = removed(self.remaining_at(_NARROWEST))
        if self.couplings and most < target - TOLERANCE:
            raise CompressionError(
                f"a share of {share.of} must be reachable; {target:.3g} is not: with every layer at its minimum width "
                f"{most:.3g} are removed{self._floor_advice}"
            )
        kept = self.remaining_at(solve_rate(target, lambda width: removed(self.remaining_at(width))))
        return refine_widths(kept, self._slots(target), target, removed, int(self.request.argument("round_to")))

    def _slots(self, width: float | None) -> list[CouplingWidth]:
        return [
            CouplingWidth(
                width=coupling.width,
                original=self.channels.original[coupling.members[0]].width,
                parts=coupling.channel_groups,
                members=len(coupling.members),
                rate=min(self.rates[name] for name in coupling.members) if width is None else width,
                least=self._least(coupling),
            )
            for coupling in self.couplings
        ]

    def _least(self, coupling: Coupling) -> int:
        """Channels that stay at any rate: a share of the uncompressed model's, where one order decides."""
        parts = coupling.channel_groups
        share = float(self.request.argument("minimal_kept")) if self.order else 0.0
        original = self.channels.original[coupling.members[0]].width
        return parts * max(1, math.ceil(round(share * original / parts, 9)))

    @property
    def _floor_advice(self) -> str:
        if not self.order or not self.request.argument("minimal_kept"):
            return ""
        return f" (each keeps a share of its filters: minimal_kept {self.request.argument('minimal_kept'):g})"
