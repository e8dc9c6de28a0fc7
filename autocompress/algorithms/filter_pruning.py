"""filter_pruning: filters are removed, with NNCF's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import FilterPruner, Importance, PruningContext
from autocompress.registry import Argument

if TYPE_CHECKING:
    from autocompress.compression.base import CompressionRequest
    from autocompress.compression.pruning.graph import ChannelGraph


class FilterPruning(FilterPruner):
    """Removes filters, ranked by their weights as the BatchNorm behind scales them.

    Source: NNCF's `filter_pruning`, its options and defaults; NNCF ranks by the weights alone.
    """

    name = "filter_pruning"
    arguments = (
        *FilterPruner.WIDTHS,
        Argument("filter_importance", "L2", options=("L1", "L2", "geometric_median")),
        Argument("all_weights", False),
        Argument("prune_first_conv", False),
        Argument("prune_downsample_convs", False),
    )

    def importance(self, context: PruningContext) -> Importance:
        """The norm of the filters, scaled by BatchNorm; the mean over coupled layers."""
        from autocompress.compression.pruning.importance import scaled_importance

        return scaled_importance(context.model, context.behind, str(context.request.argument("filter_importance")))

    def is_global(self, request: CompressionRequest) -> bool:
        """Whether all layers are ranked together."""
        return bool(request.argument("all_weights"))

    def selectable(self, request: CompressionRequest, graph: ChannelGraph, rates: Mapping[str, float]) -> list[str]:
        """The layers with a rate, without first and downsampling convolutions unless these are enabled."""
        first = set() if request.argument("prune_first_conv") else graph.first_convolutions()
        downsampling = set() if request.argument("prune_downsample_convs") else graph.downsampling_convolutions()
        return [name for name in rates if name not in first | downsampling]


ALGORITHM = FilterPruning()
