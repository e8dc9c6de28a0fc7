"""Which filters go: ranked and counted before anything is removed, then removed from the model or tried on a copy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autocompress.compress.base import CompressionRequest
from autocompress.compress.copying import copied
from autocompress.compress.layers import FILTER_TYPES, layer_rates
from autocompress.compress.pruning.channels import Channels
from autocompress.compress.pruning.coupling import Coupling, removals
from autocompress.compress.pruning.importance import Importance
from autocompress.compress.pruning.ranking import comparable, importance_of, is_global
from autocompress.compress.pruning.removal import Removal, remove
from autocompress.compress.pruning.shares import Share
from autocompress.compress.pruning.widths import TOLERANCE, Slot, global_widths, local_widths, meet, nearer
from autocompress.errors import CompressionError

_NARROWEST = 1 - 1e-9


@dataclass(frozen=True)
class Cut:
    """Filters that can be removed from a model, ranked. Valid until the model changes.

    Attributes:
        model: not changed yet.
        request: what was asked.
        channels: which of them belong together.
        rates: layer -> requested rate.
        couplings: what can be removed.
        scores: of each coupling, one per channel of a part; the lowest go first.
    """

    model: nn.Module
    request: CompressionRequest
    channels: Channels
    rates: Mapping[str, float]
    couplings: tuple[Coupling, ...]
    scores: tuple[list[float], ...]

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, channels: Channels) -> Cut:
        """Rank what can be removed.

        Args:
            model: its parameters require gradients where the algorithm trains.
            request: what is asked.
            channels: of the model.

        Raises:
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """
        rates = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
        importance = importance_of(model, request, channels.behind, channels.couplings)
        found = [
            (coupling, scores)
            for coupling in channels.couplings
            if (scores := _scores(coupling, importance)) is not None
        ]
        couplings, ranked = tuple(coupling for coupling, _ in found), tuple(scores for _, scores in found)
        return cls(model, request, channels, rates, couplings, ranked)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the layers with a rate, output layers left out."""
        return tuple(name for name in self.rates if name not in self.channels.outputs)

    def remove(self, kept: Sequence[int], model: nn.Module | None = None) -> None:
        """Remove all but so many channels of each coupling from the model, or from a copy of it."""
        remove(self.model if model is None else model, self.removals(kept))

    def removals(self, kept: Sequence[int]) -> list[Removal]:
        """What must go so that so many channels of each coupling stay."""
        return removals(self.chosen(kept))

    def chosen(self, kept: Sequence[int]) -> list[tuple[Coupling, list[int]]]:
        """The couplings that lose channels so that so many stay, with those that go."""
        return [
            (coupling, _least_important(coupling, scores, coupling.width - count))
            for coupling, count, scores in zip(self.couplings, kept, self.scores, strict=True)
            if count < coupling.width
        ]

    def wanted(self, share: Share | None) -> list[int]:
        """Channels that stay of each coupling at the requested rates, which count filters or a share of the model.

        Raises:
            CompressionError: the share is beyond what can be removed.
        """
        return self.kept() if share is None else self.kept_for(share)

    def kept(self, width: float | None = None) -> list[int]:
        """Channels that stay of each coupling.

        Args:
            width: one rate for all, instead of the requested ones.
        """
        slots, round_to = self._slots(width), int(self.request.argument("round_to"))
        if is_global(self.request):
            pairs = zip(self.couplings, self.scores, strict=True)
            ranked = [comparable(self.request, coupling, scores) for coupling, scores in pairs]
            return global_widths(slots, ranked, round_to)
        return local_widths(slots, round_to, staggered=width is not None)

    def kept_for(self, share: Share) -> list[int]:
        """Channels that stay of each coupling so that the requested share of parameters or MACs is gone.

        One width rate for all layers; single layers are a step wider or narrower where that is too coarse.

        Raises:
            CompressionError: the share is beyond what can be removed.
        """
        target, found = max(self.rates.values()), dict[tuple[int, ...], float]()

        def removed(kept: Sequence[int]) -> float:
            if tuple(kept) not in found:
                probe = copied(self.model)
                self.remove(kept, probe)
                found[tuple(kept)] = share.removed(probe)
            return found[tuple(kept)]

        most = removed(self.kept(_NARROWEST))
        if self.couplings and most < target - TOLERANCE:
            raise CompressionError(
                f"a share of {share.of} must be reachable; {target:.3g} is not: with every layer as narrow as can be "
                f"{most:.3g} are removed"
            )
        kept = self.kept(meet(target, lambda width: removed(self.kept(width))))
        return nearer(kept, self._slots(target), target, removed, int(self.request.argument("round_to")))

    def _slots(self, width: float | None) -> list[Slot]:
        return [
            Slot(
                width=coupling.width,
                original=self.channels.original[coupling.members[0]].width,
                parts=coupling.channel_groups,
                members=len(coupling.members),
                rate=min(self.rates[name] for name in coupling.members) if width is None else width,
            )
            for coupling in self.couplings
        ]


def _scores(coupling: Coupling, importance: Importance) -> list[float] | None:
    """One score per channel of a part; None: cannot tell."""
    scores, parts = importance(coupling), coupling.channel_groups
    if scores is None or coupling.width % parts:
        return None
    averaged: list[float] = (scores if parts == 1 else scores.view(parts, -1).mean(0)).tolist()
    return averaged


def _least_important(coupling: Coupling, scores: list[float], surplus: int) -> list[int]:
    parts = coupling.channel_groups
    order = torch.argsort(torch.tensor(scores), stable=True)[: surplus // parts]
    per_part = coupling.width // parts
    return sorted(int(channel) + part * per_part for part in range(parts) for channel in order)
