"""slim: filters with the smallest BatchNorm scales are removed, after training with a penalty on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import EPOCHS, NEEDS_TRAINING, FilterPruner, Importance, PruningContext
from autocompress.registry import Argument

if TYPE_CHECKING:
    from torch import nn

    from autocompress.compression.base import CompressionRequest


class Slim(FilterPruner):
    """Trains with an L1 penalty on BatchNorm's scales, then removes the filters with the smallest ones.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv:1708.06519.
    """

    name = "slim"
    arguments = (*FilterPruner.arguments, EPOCHS, Argument("scale", 1e-4))
    needs = NEEDS_TRAINING

    def translate(self, model: nn.Module, request: CompressionRequest) -> CompressionRequest:
        """The request with the filters that BatchNorm layers scale where a rule selects these, as in NNI 2.10."""
        from autocompress.compression.pruning.data_importance import rules_of_filters

        return rules_of_filters(model, request)

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check that the model has BatchNorm layers with scales."""
        from autocompress.compression.pruning.data_importance import require_scales

        require_scales(model)

    def prepare(self, model: nn.Module, request: CompressionRequest) -> int:
        """Train with the penalty."""
        from autocompress.compression.pruning.data_importance import sparsify_scales

        return sparsify_scales(model, request)

    def importance(self, context: PruningContext) -> Importance:
        """Absolute BatchNorm scales."""
        from autocompress.compression.pruning.importance import ScaleImportance

        return ScaleImportance(context.model)


ALGORITHM = Slim()
