"""l2: filters with the smallest Euclidean norm are removed."""

from __future__ import annotations

from autocompress.compression.pruning.pruner import FilterPruner, Importance, PruningContext


class L2(FilterPruner):
    """Removes the filters with the smallest l2 norm, including all weights coupled with them.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710, with p = 2.
    """

    name = "l2"

    def importance(self, context: PruningContext) -> Importance:
        """Norm of the filters and of all weights coupled with them."""
        from autocompress.compression.pruning.importance import norms

        return norms(2)


ALGORITHM = L2()
