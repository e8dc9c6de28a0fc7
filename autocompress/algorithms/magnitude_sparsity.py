"""magnitude_sparsity: the smallest weights are zeroed, with NNCF's options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import SCOPES, WeightPruner
from autocompress.registry import Argument

if TYPE_CHECKING:
    import torch

    from autocompress.compression.base import CompressionRequest


class MagnitudeSparsity(WeightPruner):
    """Zeroes the smallest weights of all layers, each divided by the norm of its layer, or of each layer.

    Source: NNCF's `magnitude_sparsity`, its options and defaults.
    """

    name = "magnitude_sparsity"
    arguments = (
        *SCOPES,
        Argument("weight_importance", "normed_abs", options=("abs", "normed_abs")),
        Argument("sparsity_level_setting_mode", "global", options=("global", "local")),
    )

    def allocation(self, request: CompressionRequest) -> str:
        """NNCF's `sparsity_level_setting_mode`: `local` gives each layer the rate."""
        return "global" if request.argument("sparsity_level_setting_mode") == "global" else "uniform"

    def score(self, weight: torch.Tensor, request: CompressionRequest) -> torch.Tensor:
        """Divided by the layer's norm, so that layers of different scale can be ranked together."""
        from autocompress.compression.pruning.sparsity import normed

        return normed(weight) if request.argument("weight_importance") == "normed_abs" else weight


ALGORITHM = MagnitudeSparsity()
