"""How the channels of a model hang together, as far as it concerns a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shape
from autocompress.compress.layers import FILTER_TYPES, layer_rates, supported_layers
from autocompress.compress.pruning.coupling import Coupling, narrowed
from autocompress.compress.pruning.graph import ChannelGraph
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
    """

    couplings: tuple[Coupling, ...]
    outputs: frozenset[str]
    behind: Mapping[str, str]
    original: Mapping[str, LayerShape]
    left_alone: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, original: Mapping[str, LayerShape]) -> Channels:
        """Follow the channels of a model, which is in eval mode, and whose parameters require gradients.

        Raises:
            CompressionError: the model cannot be traced.
        """
        graph = ChannelGraph(model, request.example_inputs, original)
        rates = layer_rates(model, request.targets, FILTER_TYPES, request.scopes)
        couplings, left_alone = graph.couplings(selectable(model, request, graph, rates))
        behind = graph.normalized(supported_layers(model, FILTER_TYPES))
        return cls(tuple(couplings), graph.outputs, behind, original, left_alone)

    def without(self, left_alone: Mapping[str, str]) -> Channels:
        """Without the couplings of which a layer is to be left alone, each with a sentence why."""
        couplings = tuple(each for each in self.couplings if not left_alone.keys() & set(each.members))
        return replace(self, couplings=couplings, left_alone={**self.left_alone, **left_alone})

    def narrowed(self, model: nn.Module) -> Channels | None:
        """Those of a model that was cut out of this one; None where it cannot have been."""
        couplings = narrowed(self.couplings, lambda name: layer_shape(model.get_submodule(name)).width)
        return None if couplings is None else replace(self, couplings=couplings)
