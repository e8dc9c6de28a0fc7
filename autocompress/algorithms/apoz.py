"""apoz: filters whose activations are zero most often are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import ACTIVATION, BATCHES, NEEDS_INPUTS, FilterPruner, PruningContext

if TYPE_CHECKING:
    from autocompress.compression.pruning.importance import Importance


class Apoz(FilterPruner):
    """Removes the filters whose activations are zero most often.

    It finds channels that are nearly always zero, in nets with ReLU and without BatchNorm; where BatchNorm comes before
    the non-linearity, how often a channel is zero says nothing of its worth.

    Source: Hu et al. 2016, Network Trimming, arXiv:1607.03250.
    """

    name = "apoz"
    arguments = (*FilterPruner.arguments, BATCHES, ACTIVATION)
    needs = NEEDS_INPUTS

    def importance(self, context: PruningContext) -> Importance:
        """How often each channel is not zero, over some batches."""
        from autocompress.compression.pruning.data_importance import activity

        return activity(context, zeros=True)


ALGORITHM = Apoz()
