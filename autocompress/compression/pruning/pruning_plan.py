"""Rates that are a share of the whole model's parameters or MACs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from autocompress.compression.base import CompressionRequest
from autocompress.compression.layers import FILTER_TYPES, layer_rates
from autocompress.compression.measure import macs, parameters
from autocompress.compression.model_state import copied
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.equivalence import Guard
from autocompress.compression.pruning.groups import Coupling, removals, remove
from autocompress.compression.pruning.importance import Importance, comparable
from autocompress.compression.pruning.pruner import PruningContext, pruner_of
from autocompress.compression.pruning.widths import TOLERANCE, Slot, global_widths, local_widths, meet, nearer
from autocompress.errors import AutoCompressError, CompressionError, ModuleError


@dataclass(frozen=True)
class Share:
    """Parameters or MACs of the whole model as what a rate counts.

    Attributes:
        of: "parameters" or "macs".
        total: of the uncompressed model.
        request: its example inputs are counted with.
    """

    of: str
    total: int
    request: CompressionRequest

    @classmethod
    def wanted(cls, model: nn.Module, request: CompressionRequest) -> Share | None:
        """What a request's rate counts; None: filters."""
        of = str(request.argument("rate_of"))
        if of == "filters":
            return None
        if request.uncompressed is not None:
            return cls(of, getattr(request.uncompressed, of), request)
        return cls(of, _counted(model, of, request), request)

    def removed(self, model: nn.Module) -> float:
        """The share that is gone."""
        return 1 - _counted(model, self.of, self.request) / self.total if self.total else 0.0


def _counted(model: nn.Module, of: str, request: CompressionRequest) -> int:
    return parameters(model) if of == "parameters" else macs(model, request.example_inputs)


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
        left_alone: layer -> why it keeps its filters, although a rule selects it.
    """

    model: nn.Module
    request: CompressionRequest
    channels: Channels
    rates: Mapping[str, float]
    couplings: tuple[Coupling, ...]
    scores: tuple[list[float], ...]
    left_alone: Mapping[str, str]

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
        importance = pruner_of(request).importance(PruningContext(model, request, channels.behind, channels.couplings))
        found, left_alone = [], {**channels.obstacles, **channels.left_alone}
        for coupling in channels.couplings:
            try:
                found.append((coupling, _scores(coupling, importance)))
            except AutoCompressError as error:
                if isinstance(error, ModuleError):
                    raise
                left_alone |= dict.fromkeys(coupling.members, f"{coupling.members[0]}: {error}; it keeps its filters")
        couplings, ranked = tuple(coupling for coupling, _ in found), tuple(scores for _, scores in found)
        return cls(model, request, channels, rates, couplings, ranked, left_alone)

    def without(self, reasons: Mapping[str, str]) -> Cut:
        """The cut that leaves couplings alone.

        Args:
            reasons: root layer of a coupling -> why.
        """
        left_alone = dict(self.left_alone)
        for coupling in self.couplings:
            if coupling.members[0] in reasons:
                left_alone |= dict.fromkeys(coupling.members, reasons[coupling.members[0]])
        stays = [coupling.members[0] not in reasons for coupling in self.couplings]
        return replace(
            self,
            couplings=tuple(itertools.compress(self.couplings, stays)),
            scores=tuple(itertools.compress(self.scores, stays)),
            left_alone=left_alone,
        )

    def sound(self, share: Share | None, guard: Guard | None = None) -> tuple[Cut, list[tuple[Coupling, list[int]]]]:
        """What is to go at the requested rates, compared with the model that does not hear it.

        Args:
            share: what the rates count; None: filters.
            guard: of the model; None: one for this only.

        Returns:
            the cut without the couplings that cannot be removed rightly, and what it removes.

        Raises:
            CompressionError: the share is beyond what can be removed.
        """
        cut, guard = self, guard or Guard(self.model, self.request.example_inputs)
        while True:
            chosen = cut.chosen(cut.wanted(share))
            if guard.disagreement(removals(chosen)) is None:
                return cut, chosen
            if cut.channels.tried:
                guilty = guard.sound(chosen)
                if not guilty:
                    return cut, chosen
                cut = cut.without(guilty)
            else:
                cut = Cut.of(self.model, self.request, cut.channels.proven(self.model, self.request))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the layers with a rate, output layers left out."""
        return tuple(name for name in self.rates if name not in self.channels.outputs)

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
        pruner = pruner_of(self.request)
        if pruner.is_global(self.request):
            pairs = zip(self.couplings, self.scores, strict=True)
            ranked = [comparable(*pair, estimates_loss=pruner.estimates_loss) for pair in pairs]
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
                remove(probe, removals(self.chosen(kept)))
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


def _scores(coupling: Coupling, importance: Importance) -> list[float]:
    """One score per channel of a part.

    Raises:
        CompressionError: there are none.
        ModuleError: a hook that the algorithm needs gives something unusable.
    """
    parts = coupling.channel_groups
    if coupling.width % parts:
        raise CompressionError(
            f"its {coupling.width} channels do not come in the {parts} equal groups of what is behind"
        )
    try:
        scores = importance(coupling)
    except AutoCompressError:
        raise
    except Exception as error:  # torch-pruning's, on layers that it does not know
        raise CompressionError(f"its filters cannot be ranked ({type(error).__name__}: {error})") from error
    if scores is None:
        raise CompressionError("its filters cannot be ranked")
    averaged: list[float] = (scores if parts == 1 else scores.view(parts, -1).mean(0)).tolist()
    return averaged


def _least_important(coupling: Coupling, scores: list[float], surplus: int) -> list[int]:
    parts = coupling.channel_groups
    order = torch.argsort(torch.tensor(scores), stable=True)[: surplus // parts]
    per_part = coupling.width // parts
    return sorted(int(channel) + part * per_part for part in range(parts) for channel in order)
