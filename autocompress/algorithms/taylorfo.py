"""taylorfo: filters whose removal costs least of the loss, to first order, are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import BATCHES, NEEDS_TRAINING, FilterPruner, PruningContext

if TYPE_CHECKING:
    from autocompress.compression.pruning.importance import Importance


class TaylorFo(FilterPruner):
    """Removes the filters of which the loss feels least: activation times gradient where channels are read.

    Sources: Molchanov et al. 2016, arXiv:1611.06440; Molchanov et al. 2019, arXiv:1906.10771; Liu et al. 2021,
    arXiv:2108.00708.
    """

    name = "taylorfo"
    arguments = (*FilterPruner.arguments, BATCHES)
    needs = NEEDS_TRAINING
    estimates_loss = True

    def importance(self, context: PruningContext) -> Importance:
        """The estimate, over some batches of the user's trainer."""
        from autocompress.compression.pruning.taylor import taylor

        return taylor(context)


ALGORITHM = TaylorFo()
