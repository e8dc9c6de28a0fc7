"""Filter pruning. Filters are physically removed, so that training afterwards is faster.

Sources: the importances' in `importance` and `evidence`; coupled layers by DepGraph, Fang et al. 2023 arXiv:2301.12900;
`filter_pruning` and its options are NNCF's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shape, layer_shapes
from autocompress.compress.evidence import require_scales, sparsify_scales
from autocompress.compress.graph import ChannelGraph, Coupling
from autocompress.compress.importance import Importance
from autocompress.compress.layers import FILTER_TYPES, layer_rates
from autocompress.compress.measure import macs, parameters
from autocompress.compress.ranking import importance_of, is_global, selectable
from autocompress.compress.state import evaluating, output_shapes, requiring_gradients
from autocompress.compress.widths import TOLERANCE, Slot, global_widths, local_widths, meet
from autocompress.errors import CompressionError, ConfigError


@dataclass(frozen=True)
class FilterCompression:
    """A model without some of its filters; nothing is left to finish.

    Attributes:
        model: the smaller model, the object that was given.
        targets: names of the targeted layers, output layers left out.
        layers: names of all layers whose filters could be removed, output layers left out.
        original: sizes of the uncompressed model's layers.
        changed: names of the layers that have lost filters, counted from the uncompressed model.
        share: what the rate is a share of, measured: parameters or MACs; None: filters.
        epochs: epochs of training that came before.
    """

    model: nn.Module
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    original: Mapping[str, LayerShape]
    changed: tuple[str, ...]
    share: Share | None = None
    epochs: int = 0
    simulated: bool = False

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the uncompressed model's filters, parameters or MACs that are gone; see `base.Compression`."""
        if self.share is not None:
            return self.share.removed(model)
        return removed_share(model, self.original, self.layers if whole_model else self.targets)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is; see `base.Compression`."""
        return model


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


class FilterPruner:
    """Removes the least important filters of each layer. Implements `base.Compressor`.

    Output layers keep their filters, and so do layers that share filters with one that may not lose any: an output
    layer, a layer that no rule selects, a registered module, or one that shares a parameter with another. Where coupled
    layers have different rates the smallest one holds.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules and the arguments against the model; see `base.Compressor`."""
        rates = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
        common = [f"rate_of {request.argument('rate_of')!r}"] if request.argument("rate_of") != "filters" else []
        common += ["one global ranking"] if is_global(request) else []
        if common and len(set(rates.values())) > 1:
            found = ", ".join(f"{rate:g}" for rate in sorted(set(rates.values())))
            raise ConfigError(f"{' with '.join(common)} must have one rate for all layers; the rules have {found}")
        if request.algorithm == "slim":
            require_scales(model)

    def compress(self, model: nn.Module, request: CompressionRequest) -> FilterCompression:
        """Remove filters so that each layer has its rate, counted from the uncompressed model; never adds any.

        Raises:
            ConfigError: rules or arguments that do not fit the model or each other.
            CompressionError: nothing would change at a rate > 0; a share of parameters or MACs cannot be reached; the
                model cannot be traced, or fails without its filters.
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """
        self.check(model, request)
        original = layer_shapes(model) if request.original is None else request.original
        share = Share.wanted(model, request)
        epochs = sparsify_scales(model, request) if request.algorithm == "slim" else 0
        shapes = output_shapes(model, request.example_inputs)
        cut = _Cut.of(model, request, original, share)
        changed = _narrower(model, original)
        if not any(name in changed for name in cut.targets) and max(cut.rates.values()) > 0:
            raise CompressionError(cut.why_nothing())
        _verify(model, request, shapes, changed)
        layers = tuple(name for name in original if name not in cut.graph.outputs)
        return FilterCompression(model, cut.targets, layers, original, changed, share, epochs)


@dataclass(frozen=True)
class _Cut:
    """Filters removed from a model.

    Attributes:
        graph: which channels belong together.
        rates: layer -> requested rate.
        targets: names of the layers with a rate, output layers left out.
        couplings: what could be removed.
        original: sizes of the uncompressed model's layers.
    """

    graph: ChannelGraph
    rates: Mapping[str, float]
    targets: tuple[str, ...]
    couplings: list[Coupling]
    original: Mapping[str, LayerShape]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        request: CompressionRequest,
        original: Mapping[str, LayerShape],
        share: Share | None,
    ) -> _Cut:
        """Remove the filters that a request asks for."""
        with evaluating(model), requiring_gradients(model):
            graph = ChannelGraph(model, request.example_inputs, original)
            asked = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
            rates = {name: asked[name] for name in selectable(model, request, graph, asked)}
            couplings = graph.couplings(rates)
            targets = tuple(name for name in asked if name not in graph.outputs)
            cut = cls(graph, asked, targets, couplings, original)
            scores = cut._scores(importance_of(model, request, graph))
            width = None if share is None else _width_for(model, request, cut, scores, share)
            cut._remove(cut._kept(scores, request, width), scores)
        return cut

    def _scores(self, importance: Importance) -> list[list[float] | None]:
        """Of each coupling, one score per channel of a part; all of them before anything is removed."""
        return [self._score(coupling, importance) for coupling in self.couplings]

    def _score(self, coupling: Coupling, importance: Importance) -> list[float] | None:
        scores, parts = importance(coupling.group), coupling.channel_groups
        if scores is None or coupling.width % parts:
            return None
        averaged: list[float] = scores.view(parts, -1).mean(0).tolist()
        return averaged

    def _kept(self, scores: list[list[float] | None], request: CompressionRequest, width: float | None) -> list[int]:
        """Channels that stay of each coupling.

        Args:
            scores: of the couplings; those that have none stay whole.
            request: its arguments.
            width: one rate for all, instead of the requested ones.
        """
        judged = [(index, ranked) for index, ranked in enumerate(scores) if ranked is not None]
        slots = [self._slot(self.couplings[index], width) for index, _ in judged]
        round_to, kept = int(request.argument("round_to")), [coupling.width for coupling in self.couplings]
        if is_global(request):
            widths = global_widths(slots, [_comparable(ranked) for _, ranked in judged], round_to)
        else:
            widths = local_widths(slots, round_to, staggered=width is not None)
        for (index, _), count in zip(judged, widths, strict=True):
            kept[index] = count
        return kept

    def _slot(self, coupling: Coupling, width: float | None) -> Slot:
        rate = min(self.rates[name] for name in coupling.members) if width is None else width
        return Slot(
            width=coupling.width,
            original=self.original[coupling.members[0]].width,
            parts=coupling.channel_groups,
            members=len(coupling.members),
            rate=rate,
        )

    def _remove(self, kept: list[int], scores: list[list[float] | None]) -> None:
        for coupling, count, ranked in zip(self.couplings, kept, scores, strict=True):
            if ranked is not None and count < coupling.width:
                self.graph.remove(coupling, _least_important(coupling, ranked, coupling.width - count))

    def why_nothing(self) -> str:
        """Why nothing could be removed."""
        rate = max(self.rates.values())
        start = f"filter pruning must remove something at a rate > 0; at rate {rate:g} nothing can be removed: "
        if not self.targets:
            return f"{start}every selected layer makes the model's output ({', '.join(self.rates)})"
        if not self.couplings:
            return (
                f"{start}every selected layer ({', '.join(self.targets)}) shares filters with the model's output, its "
                "input, or a layer that may not lose any"
            )
        free = [(name, self.original[name].width) for coupling in self.couplings for name in coupling.members]
        widths = ", ".join(f"{name}: {width}" for name, width in free)
        return f"{start}the layers are too narrow for that rate (filters: {widths})"


def removed_share(model: nn.Module, original: Mapping[str, LayerShape], layers: Iterable[str]) -> float:
    """Share in [0, 1) of the filters of these layers that are gone, all layers' filters counted alike."""
    names = list(layers)
    total = sum(original[name].width for name in names)
    left = sum(layer_shape(model.get_submodule(name)).width for name in names)
    return (total - left) / total if total else 0.0


def _width_for(
    model: nn.Module, request: CompressionRequest, cut: _Cut, scores: list[list[float] | None], share: Share
) -> float:
    """The one width rate at which the requested share of parameters or MACs is gone; tried on copies of the model."""

    def removed(width: float) -> float:
        probe = copy.deepcopy(model)
        graph = ChannelGraph(probe, request.example_inputs, cut.original)
        names = [name for coupling in cut.couplings for name in coupling.members]
        there = _Cut(graph, cut.rates, cut.targets, graph.couplings(names), cut.original)
        there._remove(there._kept(scores, request, width), scores)
        return share.removed(probe)

    target = max(cut.rates.values())
    if not cut.couplings:
        return target
    width = meet(target, removed)
    reached = removed(width)
    if reached < target - TOLERANCE:
        raise CompressionError(
            f"a share of {share.of} must be reachable; {target:.3g} is not: with every layer as narrow as can be "
            f"{reached:.3g} are removed"
        )
    return width


def _counted(model: nn.Module, of: str, request: CompressionRequest) -> int:
    return parameters(model) if of == "parameters" else macs(model, request.example_inputs)


def _comparable(scores: list[float]) -> list[float]:
    """Ascending, and relative to their mean, so that layers of different scale can be ranked together."""
    mean = sum(scores) / len(scores) or 1.0
    return sorted(score / mean for score in scores)


def _least_important(coupling: Coupling, scores: list[float], surplus: int) -> list[int]:
    parts = coupling.channel_groups
    order = torch.argsort(torch.tensor(scores), stable=True)[: surplus // parts]
    per_part = coupling.width // parts
    return sorted(int(channel) + part * per_part for part in range(parts) for channel in order)


def _narrower(model: nn.Module, original: Mapping[str, LayerShape]) -> tuple[str, ...]:
    return tuple(name for name, shape in original.items() if layer_shape(model.get_submodule(name)).width < shape.width)


def _verify(
    model: nn.Module, request: CompressionRequest, shapes: list[tuple[int, ...]], changed: tuple[str, ...]
) -> None:
    layers = ", ".join(changed)
    try:
        after = output_shapes(model, request.example_inputs)
    except Exception as error:
        raise CompressionError(
            f"the model must run without the removed filters; its forward pass fails: {error} (changed: {layers}); "
            "exclude the layers whose width the model's code relies on"
        ) from error
    if after != shapes:
        raise CompressionError(f"the output's shape must not change; {shapes} became {after} (changed: {layers})")
