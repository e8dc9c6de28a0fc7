"""How much each filter matters: scores per channel of a coupling, higher is more important."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import nn

from autocompress.compress.layers import FILTER_TYPES

Importance = Callable[[Any], "torch.Tensor | None"]
"""From a torch-pruning group over all channels of its root to one score per channel; None: cannot tell."""

_ROWS = 1024


class GeometricMedianImportance(tp.importance.GroupMagnitudeImportance):  # type: ignore[misc]
    """Distance of a filter to all others of its layer, summed: nearest to the geometric median is most replaceable.

    Source: He et al. 2019, Filter Pruning via Geometric Median, arXiv:1811.00250. torch-pruning's own version measures
    between squared weights and fails on grouped convolutions.
    """

    @torch.no_grad()
    def __call__(self, group: Any) -> torch.Tensor | None:
        """Scores normalised to a mean of 1 per layer and averaged over the layers that lose filters together."""
        scores, roots = [], []
        for item in group:
            layer, handler = item.dep.target.module, item.dep.handler
            if isinstance(layer, FILTER_TYPES) and handler.__name__ == "prune_out_channels":
                distances = _summed_distances(_filters(layer)[item.idxs])
                scores.append(distances / distances.mean().clamp_min(torch.finfo(distances.dtype).tiny))
                roots.append(item.root_idxs)
        return cast(torch.Tensor, self._reduce(scores, roots)) if scores else None


def _filters(layer: nn.Module) -> torch.Tensor:
    """One row per filter."""
    weight = cast(torch.Tensor, layer.weight).detach()
    groups = int(getattr(layer, "groups", 1))
    if getattr(layer, "transposed", False):  # (in, out / groups, ...) -> (out, in / groups, ...)
        inputs, outputs, *kernel = weight.shape
        weight = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1).float()


def _summed_distances(rows: torch.Tensor) -> torch.Tensor:
    # In parts: all pairs of a wide layer at once do not fit into memory.
    return torch.cat([torch.cdist(part, rows).sum(1) for part in torch.split(rows, _ROWS)])


IMPORTANCES: dict[str, Callable[[], Importance]] = {
    # Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710; l2 is the same with the other norm.
    "l1": lambda: cast(Importance, tp.importance.GroupMagnitudeImportance(p=1)),
    "l2": lambda: cast(Importance, tp.importance.GroupMagnitudeImportance(p=2)),
    "fpgm": GeometricMedianImportance,
}
