"""How the channels of a model hang together, as far as it concerns a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shape
from autocompress.compress.layers import FILTER_TYPES, layer_rates, supported_layers
from autocompress.compress.pruning.coupling import Coupling, narrowed
from autocompress.compress.pruning.graph import ChannelGraph
from autocompress.compress.pruning.guard import Guard
from autocompress.compress.pruning.mending import mended, on_trial
from autocompress.compress.pruning.ranking import selectable


@dataclass(frozen=True)
class Channels:
    """What can be removed from a model, by names.

    Attributes:
        couplings: filters that can only be removed together.
        outputs: names of the layers that make the model's outputs.
        behind: layer -> name of the BatchNorm that alone takes its output, or the layer's own.
        original: sizes of the uncompressed model's layers.
        left_alone: layer -> why it keeps its filters: those whose channels cannot be followed.
        obstacles: layer -> why it keeps its filters: those with which something would go that must stay.
        free: names of the layers that may lose filters, as far as they alone are concerned.
        bound: names of modules that must keep their size.
        tried: whether each coupling has been cut on trial.
    """

    couplings: tuple[Coupling, ...]
    outputs: frozenset[str]
    behind: Mapping[str, str]
    original: Mapping[str, LayerShape]
    left_alone: Mapping[str, str]
    free: frozenset[str]
    bound: frozenset[str]
    obstacles: Mapping[str, str] = field(default_factory=dict)
    tried: bool = False

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, original: Mapping[str, LayerShape]) -> Channels:
        """Follow the channels of a model, which is in eval mode, and whose parameters require gradients.

        Raises:
            CompressionError: the model cannot be traced.
        """
        graph = ChannelGraph(model, request.example_inputs, original)
        rates = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
        selected = selectable(model, request, graph, rates)
        couplings, left_alone, obstacles = graph.couplings(selected)
        behind, free = graph.normalized(supported_layers(model, FILTER_TYPES)), graph.free(selected)
        found = cls(tuple(couplings), graph.outputs, behind, original, left_alone, free, graph.bound, obstacles)
        # Widths for a share of the model are tried on smaller models, which must run.
        return found.proven(model, request) if left_alone or request.argument("rate_of") != "filters" else found

    def proven(self, model: nn.Module, request: CompressionRequest) -> Channels:
        """Only what can be removed rightly, tried at half of the channels; what torch-pruning gets wrong is mended.

        Args:
            model: as followed.
            request: with example inputs.
        """
        if self.tried:
            return self
        guard = Guard(model, request.example_inputs)
        guilty = guard.sound([(coupling, on_trial(coupling)) for coupling in self.couplings])
        found = self.without(
            {
                name: guilty[each.members[0]]
                for each in self.couplings
                for name in each.members
                if each.members[0] in guilty
            }
        )
        if found.left_alone:
            more = mended(
                model, request.example_inputs, found.left_alone, found.couplings, self.free, self.bound, guard
            )
            again = {name for coupling in more for name in coupling.members}
            left_alone = {name: why for name, why in found.left_alone.items() if name not in again}
            found = replace(found, couplings=(*found.couplings, *more), left_alone=left_alone)
        return replace(found, tried=True)

    def without(self, left_alone: Mapping[str, str]) -> Channels:
        """Without the couplings of which a layer is to be left alone, each with a sentence why."""
        couplings = tuple(each for each in self.couplings if not left_alone.keys() & set(each.members))
        return replace(self, couplings=couplings, left_alone={**self.left_alone, **left_alone})

    def narrowed(self, model: nn.Module) -> Channels | None:
        """Those of a model that was cut out of this one; None where it cannot have been."""
        couplings = narrowed(self.couplings, lambda name: layer_shape(model.get_submodule(name)).width)
        return None if couplings is None else replace(self, couplings=couplings)
