"""Filter pruning by weights: l1, l2 and fpgm. Filters are physically removed, so that training afterwards is faster.

Sources: l1 Li et al. 2017 arXiv:1608.08710 (l2: the same with the other norm), fpgm He et al. 2019 arXiv:1811.00250;
coupled layers by DepGraph, Fang et al. 2023 arXiv:2301.12900.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shape, layer_shapes
from autocompress.compress.graph import ChannelGraph, Coupling
from autocompress.compress.importance import IMPORTANCES, Importance
from autocompress.compress.layers import FILTER_TYPES, layer_rates
from autocompress.compress.state import evaluating, output_shapes, requiring_gradients
from autocompress.errors import CompressionError, ConfigError, unknown_name


def kept_filters(width: int, rate: float, groups: int = 1) -> int:
    """How many of a layer's filters stay: the nearest number, at least one per group, the same in each group.

    Args:
        width: filters of the layer in the uncompressed model.
        rate: share to remove, in [0, 1).
        groups: equal parts that the filters come in.
    """
    return groups * max(1, math.floor(width // groups * (1 - rate) + 0.5))


@dataclass(frozen=True)
class FilterCompression:
    """A model without some of its filters; nothing is left to finish.

    Attributes:
        model: the smaller model, the object that was given.
        targets: names of the targeted layers, output layers left out.
        layers: names of all layers whose filters could be removed, output layers left out.
        original: sizes of the uncompressed model's layers.
        changed: names of the layers that have lost filters, counted from the uncompressed model.
    """

    model: nn.Module
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    original: Mapping[str, LayerShape]
    changed: tuple[str, ...]
    simulated: bool = False
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of the uncompressed model's filters that are gone; see `base.Compression`."""
        return removed_share(model, self.original, self.layers if whole_model else self.targets)

    def finish(self, model: nn.Module) -> nn.Module:
        """The model as it is; see `base.Compression`."""
        return model


class FilterPruner:
    """Removes the least important filters of each layer. Implements `base.Compressor`.

    Output layers keep their filters, and so do layers that share filters with one that may not lose any: an output
    layer, a layer that no rule selects, or one that shares a parameter with another. Where coupled layers have
    different rates the smallest one holds.
    """

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules against the model; see `base.Compressor`."""
        layer_rates(model, request.targets, FILTER_TYPES, request.scopes)

    def compress(self, model: nn.Module, request: CompressionRequest) -> FilterCompression:
        """Remove filters so that each layer has its rate, counted from the uncompressed model; never adds any.

        Raises:
            ConfigError: unknown algorithm, or rules that do not fit the model.
            CompressionError: nothing would change at a rate > 0; the model cannot be traced, or fails without them.
        """
        importance = _importance(request.algorithm)
        original = layer_shapes(model) if request.original is None else request.original
        rates = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
        shapes = output_shapes(model, request.example_inputs)
        with evaluating(model), requiring_gradients(model):
            graph = ChannelGraph(model, request.example_inputs, original)
            _remove(graph, graph.couplings(rates), rates, original, importance)
        layers = tuple(name for name in original if name not in graph.outputs)
        targets = tuple(name for name in rates if name not in graph.outputs)
        changed = _narrower(model, original)
        if not any(name in changed for name in targets) and max(rates.values()) > 0:
            raise CompressionError(_why_nothing(rates, targets, original, graph))
        _verify(model, request, shapes, changed)
        return FilterCompression(model, targets, layers, original, changed)


def removed_share(model: nn.Module, original: Mapping[str, LayerShape], layers: Iterable[str]) -> float:
    """Share in [0, 1) of the filters of these layers that are gone, all layers' filters counted alike."""
    names = list(layers)
    total = sum(original[name].width for name in names)
    left = sum(layer_shape(model.get_submodule(name)).width for name in names)
    return (total - left) / total if total else 0.0


def _importance(algorithm: str) -> Importance:
    if algorithm not in IMPORTANCES:
        raise ConfigError(unknown_name("filter pruning algorithm", algorithm, IMPORTANCES))
    return IMPORTANCES[algorithm]()


def _remove(
    graph: ChannelGraph,
    couplings: list[Coupling],
    rates: Mapping[str, float],
    original: Mapping[str, LayerShape],
    importance: Importance,
) -> None:
    # All scores first: removing the filters of one layer changes the input weights that others are judged by.
    chosen = [(coupling, _least_important(coupling, rates, original, importance)) for coupling in couplings]
    for coupling, channels in chosen:
        if channels:
            graph.remove(coupling, channels)


def _least_important(
    coupling: Coupling, rates: Mapping[str, float], original: Mapping[str, LayerShape], importance: Importance
) -> list[int]:
    rate = min(rates[name] for name in coupling.members)
    parts = coupling.channel_groups
    width = len(coupling.group[0].idxs)
    surplus = width - kept_filters(original[coupling.members[0]].width, rate, parts)
    if surplus <= 0 or width % parts:
        return []
    scores = importance(coupling.group)
    if scores is None:
        return []
    order = torch.argsort(scores.view(parts, -1).mean(0), stable=True)[: surplus // parts]
    return sorted(int(channel) + part * (width // parts) for part in range(parts) for channel in order)


def _narrower(model: nn.Module, original: Mapping[str, LayerShape]) -> tuple[str, ...]:
    return tuple(name for name, shape in original.items() if layer_shape(model.get_submodule(name)).width < shape.width)


def _why_nothing(
    rates: Mapping[str, float], targets: tuple[str, ...], original: Mapping[str, LayerShape], graph: ChannelGraph
) -> str:
    rate = max(rates.values())
    start = f"filter pruning must remove something at a rate > 0; at rate {rate:g} nothing can be removed: "
    if not targets:
        return f"{start}every selected layer makes the model's output ({', '.join(rates)})"
    couplings = graph.couplings(rates)
    if not couplings:
        return (
            f"{start}every selected layer ({', '.join(targets)}) shares filters with the model's output, its input, or "
            "a layer that is not selected"
        )
    free = ", ".join(f"{name}: {original[name].width}" for coupling in couplings for name in coupling.members)
    return f"{start}the layers are too narrow for that rate (filters: {free})"


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
