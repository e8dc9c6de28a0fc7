"""l2: filters with the smallest Euclidean norm are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import FilterPruner, PruningContext

if TYPE_CHECKING:
    from autocompress.compression.pruning.importance import Importance


class L2(FilterPruner):
    """Removes the filters with the smallest l2 norm, the weights that are coupled with them included.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710, with p = 2.
    """

    name = "l2"

    def importance(self, context: PruningContext) -> Importance:
        """The norm of the filters and of all that is coupled with them."""
        from autocompress.compression.pruning.importance import norms

        return norms(2)


ALGORITHM = L2()
