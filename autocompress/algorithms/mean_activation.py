"""mean_activation: filters of which the next layers get least are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import ACTIVATION, BATCHES, NEEDS_INPUTS, FilterPruner, PruningContext

if TYPE_CHECKING:
    from autocompress.compression.pruning.importance import Importance


class MeanActivation(FilterPruner):
    """Removes the filters whose activations, times the weights that read them, are smallest.

    Source: Molchanov et al. 2016, Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv:1611.06440.
    """

    name = "mean_activation"
    arguments = (*FilterPruner.arguments, BATCHES, ACTIVATION)
    needs = NEEDS_INPUTS

    def importance(self, context: PruningContext) -> Importance:
        """What the next layers get of each channel, over some batches."""
        from autocompress.compression.pruning.data_importance import activity

        return activity(context, zeros=False)


ALGORITHM = MeanActivation()
