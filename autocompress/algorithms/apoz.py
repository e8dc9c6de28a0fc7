"""apoz: filters whose activations are zero most often are removed."""

from __future__ import annotations

from autocompress.compression.pruning.pruner import (
    ACTIVATION,
    BATCHES,
    NEEDS_INPUTS,
    FilterPruner,
    Importance,
    PruningContext,
)


class Apoz(FilterPruner):
    """Removes the filters whose activations are zero most often.

    It finds channels that are nearly always zero, in nets with ReLU and without BatchNorm; with BatchNorm before the
    non-linearity, the share of zeros does not indicate importance.

    Source: Hu et al. 2016, Network Trimming, arXiv:1607.03250.
    """

    name = "apoz"
    arguments = (*FilterPruner.arguments, BATCHES, ACTIVATION)
    needs = NEEDS_INPUTS

    def importance(self, context: PruningContext) -> Importance:
        """Share of nonzero activations of each channel, over some batches."""
        from autocompress.compression.pruning.data_importance import activity

        return activity(context, zeros=True)


ALGORITHM = Apoz()
