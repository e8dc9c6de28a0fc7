"""filter_pruning: filters are removed, with NNCF's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import ALLOCATION, FilterPruner, Importance, PruningContext
from autocompress.errors import ConfigError
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
        ALLOCATION,
        Argument("minimal_kept", 0.0, below=1),  # NNCF keeps a single filter of a layer
    )

    def importance(self, context: PruningContext) -> Importance:
        """The norm of the filters, scaled by BatchNorm; the mean over coupled layers."""
        from autocompress.compression.pruning.importance import scaled_importance

        return scaled_importance(context.model, context.behind, str(context.request.argument("filter_importance")))

    def allocation(self, request: CompressionRequest) -> str:
        """`global` with NNCF's option `all_weights`.

        Raises:
            ConfigError: another one is given with it.
        """
        given = request.arguments.get("allocation")
        if request.argument("all_weights") and given not in (None, "global"):
            raise ConfigError(
                f"allocation must be 'global' with all_weights, which is NNCF's name of it; got {given!r}"
            )
        return "global" if request.argument("all_weights") else super().allocation(request)

    def spared(self, request: CompressionRequest, graph: ChannelGraph, rates: Mapping[str, float]) -> dict[str, str]:
        """First and downsampling convolutions with a rate, unless these are enabled."""
        kinds = {
            "prune_downsample_convs": ("downsampling", graph.downsampling_convolutions()),
            "prune_first_conv": ("first", graph.first_convolutions()),
        }
        return {
            name: f"{name}: filter_pruning spares {kind} convolutions by default, as NNCF does, and what shares "
            f"filters with them; the option {option} = true includes it; it keeps its filters"
            for option, (kind, names) in kinds.items()
            if not request.argument(option)
            for name in rates
            if name in names
        }


ALGORITHM = FilterPruning()
