"""taylorfo: filters with the smallest estimated effect on the loss are removed."""

from __future__ import annotations

from autocompress.compression.pruning.pruner import BATCHES, NEEDS_TRAINING, FilterPruner, Importance, PruningContext


class TaylorFo(FilterPruner):
    """Removes the filters with the smallest first-order effect on the loss: activation times gradient.

    Sources: Molchanov et al. 2016, arXiv:1611.06440; Molchanov et al. 2019, arXiv:1906.10771; Liu et al. 2021,
    arXiv:2108.00708.
    """

    name = "taylorfo"
    arguments = (*FilterPruner.arguments, BATCHES)
    needs = NEEDS_TRAINING
    estimates_loss = True

    def importance(self, context: PruningContext) -> Importance:
        """The estimate, over some batches of the user's trainer."""
        from autocompress.compression.pruning.data_importance import taylor

        return taylor(context)


ALGORITHM = TaylorFo()
