"""mean_activation: filters with the smallest weighted activations are removed."""

from __future__ import annotations

from autocompress.compression.pruning.pruner import (
    ACTIVATION,
    BATCHES,
    NEEDS_INPUTS,
    FilterPruner,
    Importance,
    PruningContext,
)


class MeanActivation(FilterPruner):
    """Removes the filters whose activations, times the weights that read them, are smallest.

    Source: Molchanov et al. 2016, Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv:1611.06440.
    """

    name = "mean_activation"
    arguments = (*FilterPruner.arguments, BATCHES, ACTIVATION)
    needs = NEEDS_INPUTS

    def importance(self, context: PruningContext) -> Importance:
        """Magnitude of each channel times the weights that read it, over some batches."""
        from autocompress.compression.pruning.data_importance import activity

        return activity(context, zeros=False)


ALGORITHM = MeanActivation()
