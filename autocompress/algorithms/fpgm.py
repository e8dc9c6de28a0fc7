"""fpgm: the filters nearest to the geometric median of their layer are removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autocompress.compression.pruning.pruner import FilterPruner

if TYPE_CHECKING:
    import torch
    from torch import nn


class Fpgm(FilterPruner):
    """Removes the filters that the other filters of their layer can replace best.

    Source: He et al. 2019, Filter Pruning via Geometric Median, arXiv:1811.00250.
    """

    name = "fpgm"

    def score(self, layer: nn.Module) -> torch.Tensor:
        """Sum of the distances of each filter to all others of its layer."""
        from autocompress.compression.pruning.importance import geometric_median_distances

        return geometric_median_distances(layer)


ALGORITHM = Fpgm()
