"""All coupled channels of a model: torch-pruning's, and those found by tracing where it is wrong."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shape
from autocompress.compression.layers import FILTER_TYPES, PRUNED_TYPES, layer_rates, supported_layers
from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.dependency_graph import TRACING_SECONDS, TracingEffort
from autocompress.compression.pruning.equivalence import OUTPUTS, CutVerifier, Mismatch
from autocompress.compression.pruning.graph import ChannelGraph
from autocompress.compression.pruning.groups import Coupling, after_pruning, removals, trial_channels
from autocompress.compression.pruning.local_couplings import attention_modules, local_couplings
from autocompress.compression.pruning.marked_couplings import Permission, coupling_group, verified_coupling
from autocompress.compression.pruning.pruner import PROBED, pruner_of
from autocompress.compression.pruning.recurrent_tracing import RecurrentLayers
from autocompress.errors import CompressionError

_logger = logging.getLogger(__name__)


def trace_couplings(
    model: nn.Module,
    inputs: tuple[Any, ...],
    channels: Channels,
    verifier: CutVerifier,
    effort: TracingEffort | None = None,
) -> tuple[list[Coupling], dict[str, str]]:
    """Correct couplings of the layers that are in none of the channels' verified couplings, found by tracing.

    Returns:
        the couplings; and recurrent layers that the model cannot lose hidden units of, each with the reason.
    """
    known, effort = channels.settled | channels.residual, effort or TracingEffort()
    recurrent = RecurrentLayers.of(model)
    try:
        with recurrent.replaced(model):
            tracer, parts = ChannelTracer(model, inputs, effort), supported_layers(model, FILTER_TYPES)
        shapes = {name: layer_shape(part) for name, part in parts.items() if name not in known}
        # What a single filter is multiplied with does not depend on other channels: it cannot be removed.
        tracer.trace(name for name, shape in shapes.items() if shape.width > 1 and not shape.depthwise)
    except CompressionError as error:
        _logger.warning("%s keep their filters: %s", ", ".join(channels.left_alone), error)
        return [], {}
    except Exception:  # noqa: BLE001 - the model does not accept NaN: its layers are not pruned
        return [], {}
    allowed = Permission(channels.prunable, channels.fixed)
    found, failed = list[Coupling](), dict[str, str]()
    cut = [(coupling, trial_channels(coupling)) for coupling in channels.couplings]
    widths = {name: layer_shape(model.get_submodule(name)).width for name in channels.left_alone}

    def mismatch(name: str, tried: Coupling) -> Mismatch | None:
        if effort.is_spent:
            return Mismatch(OUTPUTS, error=effort.reason)
        wrong = verifier.mismatch(removals([*cut, (tried, trial_channels(tried))]))
        if wrong is not None and name in recurrent.layers and "initial state" not in channels.left_alone[name]:
            failed[name] = wrong.sentence(name).replace("filters", "hidden units")
        return wrong

    for name in sorted(widths, key=lambda name: (name not in recurrent.layers, -widths[name])):
        if not any(name in coupling.members for coupling in found):
            units = recurrent.coupled_sets(tracer, name) or []
            coupling = verified_coupling(model, name, units, allowed, partial(mismatch, name))
            if coupling is not None:
                found.append(coupling)
                cut.append((coupling, trial_channels(coupling)))
    if effort.is_spent:
        _logger.warning("not all layers are traced: %s", effort.reason)
    return found, failed


@dataclass(frozen=True)
class Channels:
    """The channels that can be removed from a model.

    Attributes:
        couplings: filters that can only be removed together.
        outputs: layers that produce the model's outputs.
        behind: layer -> name of the BatchNorm that is the only consumer of its output, or the layer's own name.
        original: sizes of the uncompressed model's layers.
        left_alone: layer -> why it keeps its filters: its channels cannot be traced.
        obstacles: layer -> why it keeps its filters: it is coupled with something that must stay.
        prunable: layers that may lose filters by themselves.
        fixed: modules that must keep their size.
        is_verified: whether each coupling has been verified by a trial cut.
        residual: layers that keep their filters as they write to the residual stream of a transformer.
        seconds: limit of tracing.
    """

    couplings: tuple[Coupling, ...]
    outputs: frozenset[str]
    behind: Mapping[str, str]
    original: Mapping[str, LayerShape]
    left_alone: Mapping[str, str]
    prunable: frozenset[str]
    fixed: frozenset[str]
    obstacles: Mapping[str, str] = field(default_factory=dict)
    is_verified: bool = False
    residual: frozenset[str] = frozenset()
    seconds: float = TRACING_SECONDS

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, original: Mapping[str, LayerShape]) -> Channels:
        """Trace the channels of a model, which is in eval mode and whose parameters require gradients.

        Raises:
            CompressionError: the model cannot be traced.
        """
        seconds = float(request.argument("tracing_limit"))
        rates = layer_rates(model, request.targets, PRUNED_TYPES, request.scopes)
        recurrent = RecurrentLayers.of(model)
        with recurrent.replaced(model):
            shapes, effort = {**original, **recurrent.shapes}, TracingEffort(seconds)
            graph = ChannelGraph(model, request.example_inputs, shapes, recurrent.fixed, effort)
            spared = pruner_of(request).spared(request, graph, rates)
            selected = [name for name in rates if name not in spared]
            parts = recurrent.parts(selected)
            behind, free = graph.batchnorm_behind(supported_layers(model, FILTER_TYPES)), graph.prunable(parts)
            found = cls((), graph.outputs, behind, original, {}, free, graph.fixed, spared, seconds=seconds)
            attention = attention_modules(model, request.example_inputs)
            if attention:
                found = found._with_blocks(model, request, graph.residual_layers(attention), graph.uncalled)
            found = found._with_graph(graph, parts)
        found = recurrent.restored(found, selected)
        grouped = (replace(each, group=each.group or coupling_group(model, each.places)) for each in found.couplings)
        found, left_alone = replace(found, couplings=tuple(grouped)), found.left_alone
        # The widths for a share of the model, or for equal damage, are found by running pruned models.
        runs = request.argument("rate_of") != "filters" or pruner_of(request).allocation(request) in PROBED
        return found.with_verified(model, request) if left_alone or runs else found

    def _with_graph(self, graph: ChannelGraph, selected: Iterable[str]) -> Channels:
        """With the couplings that the graph of the whole model gives for the layers that have none."""
        rest = [name for name in selected if name not in {*self.settled, *self.obstacles, *graph.outputs}]
        couplings, left_alone, obstacles = graph.couplings(rest) if rest else ([], {}, {})
        return replace(
            self,
            couplings=(*self.couplings, *couplings),
            left_alone=left_alone,
            obstacles={**obstacles, **self.obstacles},
        )

    def _with_blocks(
        self, model: nn.Module, request: CompressionRequest, residual: frozenset[str], uncalled: Collection[str]
    ) -> Channels:
        """With the couplings inside the blocks of a transformer, whose residual width stays unless it is requested."""
        stays = frozenset[str]() if request.argument("prune_residual") else residual
        free = self.prunable - stays
        no = {*residual, *uncalled, *self.outputs}
        layers = [name for name in supported_layers(model, FILTER_TYPES) if name in free and name not in no]
        effort = TracingEffort(self.seconds / 2)
        found = local_couplings(model, request.example_inputs, layers, Permission(free, self.fixed), effort)
        why = "writes to the residual stream, whose width stays; prune_residual=true includes it; it keeps its filters"
        kept = {name: f"{name}: {why}" for name in self.original if name in stays & self.prunable}
        return replace(
            self, couplings=tuple(found), prunable=free, residual=stays, obstacles={**self.obstacles, **kept}
        )

    @property
    def settled(self) -> frozenset[str]:
        """Layers that lose filters with a coupling."""
        return frozenset(name for coupling in self.couplings for name in coupling.members)

    def with_verified(self, model: nn.Module, request: CompressionRequest) -> Channels:
        """The couplings that a trial cut of half the channels verifies; wrong ones are replaced by traced ones."""
        if self.is_verified:
            return self
        effort, inputs = TracingEffort(self.seconds / 2), request.example_inputs
        verifier = CutVerifier(model, inputs)
        found = self._without_faulty(verifier, effort)
        if found.left_alone:
            may = Permission(found.prunable, found.fixed)
            found = found._with_more(local_couplings(model, inputs, found.left_alone, may, effort))
            found = found._without_faulty(verifier, effort)
        if found.left_alone:
            more, failed = trace_couplings(model, inputs, found, verifier, effort)
            found = replace(found, left_alone={**found.left_alone, **failed})._with_more(more)
        return replace(found, is_verified=True)

    def _without_faulty(self, verifier: CutVerifier, effort: TracingEffort) -> Channels:
        """Without the couplings of which a trial cut is wrong."""
        faulty = verifier.find_faulty([(coupling, trial_channels(coupling)) for coupling in self.couplings], effort)
        wrong = [each for each in self.couplings if each.members[0] in faulty]
        return self.without({name: faulty[each.members[0]] for each in wrong for name in each.members})

    def _with_more(self, couplings: Iterable[Coupling]) -> Channels:
        """With more couplings, of layers that were left alone."""
        found = replace(self, couplings=(*self.couplings, *couplings))
        return replace(
            found, left_alone={name: why for name, why in self.left_alone.items() if name not in found.settled}
        )

    def without(self, left_alone: Mapping[str, str]) -> Channels:
        """Without the couplings of these layers, given with the reasons."""
        couplings = tuple(each for each in self.couplings if not left_alone.keys() & set(each.members))
        return replace(self, couplings=couplings, left_alone={**self.left_alone, **left_alone})

    def narrowed(self, model: nn.Module) -> Channels | None:
        """The channels of a model pruned from this one; None if it cannot have been."""
        couplings = after_pruning(self.couplings, lambda name: layer_shape(model.get_submodule(name)).width)
        return None if couplings is None else replace(self, couplings=couplings)
