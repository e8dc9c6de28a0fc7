"""Importance of filters: scores per channel of a coupling, higher is more important."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compression.layers import FILTER_TYPES, PRUNED_TYPES, TransposedLinear, supported_layers
from autocompress.compression.pruning.dependency_graph import upstream
from autocompress.compression.pruning.groups import Coupling
from autocompress.compression.pruning.pruner import Importance, PruningContext, pruner_of
from autocompress.compression.pruning.recurrent import scored_parts
from autocompress.errors import AutoCompressError, CompressionError, ModuleError

if TYPE_CHECKING:
    from autocompress.compression.base import CompressionRequest
    from autocompress.compression.pruning.channels import Channels

LayerScore = Callable[[nn.Module], "torch.Tensor"]
"""From a layer to one score per filter."""

_ROWS = 1024
_LEAST_COST = 1e-12


class LayerImportance(tp.importance.GroupMagnitudeImportance):  # type: ignore[misc]
    """Scores of single layers, normalized to mean size 1 and averaged over the layers that lose filters together."""

    def __init__(self, score: LayerScore, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._score, self._layers = score, layers

    @torch.no_grad()
    def __call__(self, coupling: Coupling) -> torch.Tensor | None:
        """One score per channel of the coupling's root."""
        scores, roots = [], []
        for place in coupling.places:
            if place.is_output_of(self._layers):
                found = torch.cat(list(map(self._score, scored_parts(self._layers[place.name]))))
                found = found[list(place.indices)].float()
                scores.append(found / found.abs().mean().clamp_min(torch.finfo(found.dtype).tiny))
                roots.append(place.roots)
        if len(scores) == 1 and roots[0] == tuple(range(coupling.width)):  # nothing to average
            return scores[0]
        return cast(torch.Tensor, self._reduce(scores, roots)) if scores else None


class ScaleImportance:
    """Absolute scales of BatchNorm; in couplings without BatchNorm the l2 norm of the filters.

    Of several norms in a row, as about a depthwise convolution, only the last one scales the channel as it is read; the
    scales of norms whose outputs are added are added.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv:1708.06519.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._norms = tp.importance.GroupMagnitudeImportance(p=2)

    def __call__(self, coupling: Coupling) -> torch.Tensor | None:
        """One score per channel of the coupling's root."""
        scaling = [place for place in coupling.places if _scale(self._modules.get(place.name)) is not None]
        last = _last_norms(coupling.group)
        chosen = [place for place in scaling if self._modules[place.name] in last] or scaling
        if not chosen:
            return cast("torch.Tensor | None", self._norms(coupling.group))
        total = torch.zeros(coupling.width)
        for place in chosen:
            scale = cast(torch.Tensor, _scale(self._modules[place.name]))
            total.index_add_(0, torch.tensor(place.roots), scale[list(place.indices)].cpu())
        return total


def _scale(module: nn.Module | None) -> torch.Tensor | None:
    return module.weight.detach().abs().float() if isinstance(module, _BatchNorm) and module.affine else None


def _last_norms(group: Any) -> set[nn.Module]:
    """The BatchNorm layers of a group with no other norm or layer between them and a reader of the channels."""
    nodes = {item.dep.target for item in group if item.dep.handler.__name__ == "prune_in_channels"}
    starts = [before for node in nodes for before in node.inputs]
    between = upstream(starts, lambda node: not isinstance(node.module, (_BatchNorm, *FILTER_TYPES)))
    return {node.module for node in between if isinstance(node.module, _BatchNorm)}


def norms(p: int) -> Importance:
    """Norm of the filters and of all weights coupled with them.

    Source: Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv:1608.08710; l2 is the same with p = 2.
    """
    importance = tp.importance.GroupMagnitudeImportance(p=p)
    return lambda coupling: importance(coupling.group)


def geometric_median_distances(layer: nn.Module) -> torch.Tensor:
    """Sum of the distances of each filter to all others of its layer: lowest at the geometric median.

    Source: He et al. 2019, Filter Pruning via Geometric Median, arXiv:1811.00250. torch-pruning's own version measures
    between squared weights and fails on grouped convolutions.
    """
    return distance_sums(by_filter(layer, cast(torch.Tensor, layer.weight).detach()).float())


def distance_sums(rows: torch.Tensor) -> torch.Tensor:
    """Sum of the distances of each row to all others."""
    # All pairs of a wide layer at once may not fit into memory.
    return torch.cat([torch.cdist(part, rows).sum(1) for part in torch.split(rows, _ROWS)])


def batchnorm_scaled(score: Callable[[torch.Tensor], torch.Tensor], norms: Mapping[nn.Module, nn.Module]) -> LayerScore:
    """Scores of filters (one row each) scaled by the BatchNorm behind them, which `norms` gives for each layer."""

    def of(layer: nn.Module) -> torch.Tensor:
        rows = by_filter(layer, cast(torch.Tensor, layer.weight).detach()).float()
        norm = norms.get(layer)
        if isinstance(norm, _BatchNorm) and norm.running_var is not None:
            scale = (norm.running_var + norm.eps).rsqrt()
            rows = rows * (scale if norm.weight is None else scale * norm.weight.detach())[:, None]
        return score(rows)

    return of


_NNCF_IMPORTANCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "L1": lambda rows: rows.abs().sum(1),
    "L2": lambda rows: rows.norm(dim=1),
    "geometric_median": distance_sums,
}


def scaled_importance(model: nn.Module, behind: Mapping[str, str], name: str) -> Importance:
    """NNCF's importance of filters (L1, L2 or geometric_median), scaled by the BatchNorm behind them.

    `behind` maps a layer to the name of the BatchNorm that is the only consumer of its output, or its own name.
    """
    layers = supported_layers(model, PRUNED_TYPES)
    scales = {layers[layer]: model.get_submodule(norm) for layer, norm in behind.items()}
    return LayerImportance(batchnorm_scaled(_NNCF_IMPORTANCES[name], scales), layers)


def comparable(
    coupling: Coupling, scores: Sequence[float], *, estimates_loss: bool, cost: float | None = None
) -> list[float]:
    """The scores of a coupling, ascending, so that all couplings can be ranked together.

    If they estimate the loss they are divided by what removing a channel frees, else by the coupling's mean.

    Args:
        coupling: whose channels they are of.
        scores: one per channel.
        estimates_loss: whether they are in the unit of the loss.
        cost: share of the model's parameters or MACs that goes with a channel; None: filters are counted.
    """
    if estimates_loss:
        divisor = len(coupling.members) if cost is None else max(cost, _LEAST_COST)
    else:
        divisor = sum(abs(score) for score in scores) / len(scores) or 1.0
    return sorted(score / divisor for score in scores)


def ranked_couplings(
    model: nn.Module, request: CompressionRequest, channels: Channels
) -> tuple[list[tuple[Coupling, list[float]]], dict[str, str]]:
    """The couplings of a model, each with a score for each channel of a part; and the layers that cannot be ranked.

    Raises:
        ModuleError: the user's module lacks a hook that the algorithm needs.
    """
    importance = pruner_of(request).importance(PruningContext(model, request, channels.behind, channels.couplings))
    found, left_alone = [], dict[str, str]()
    for coupling in channels.couplings:
        try:
            found.append(_ranked(coupling, _scores(coupling, importance)))
        except AutoCompressError as error:
            if isinstance(error, ModuleError):
                raise
            left_alone |= dict.fromkeys(coupling.members, f"{coupling.members[0]}: {error}; it keeps its filters")
    return found, left_alone


def _ranked(coupling: Coupling, scores: torch.Tensor) -> tuple[Coupling, list[float]]:
    """The coupling with one score per channel of a part; where parts lose their own, per place in their orders."""
    by_part = scores.view(coupling.channel_groups, -1)
    if not coupling.alike:
        return coupling, by_part.mean(0).tolist()
    values, orders = by_part.clone(), by_part.argsort(stable=True, dim=1)
    for parts in map(list, coupling.alike):
        values[parts], orders[parts] = (
            each.expand(len(parts), -1) for each in by_part[parts].mean(0).sort(stable=True)
        )
    return replace(coupling, orders=tuple(map(tuple, orders.tolist()))), values.mean(0).tolist()


def _scores(coupling: Coupling, importance: Importance) -> torch.Tensor:
    """One score per channel; CompressionError if there are none."""
    parts = coupling.channel_groups
    if coupling.width % parts:
        raise CompressionError(
            f"its {coupling.width} channels do not come in the {parts} equal groups of the layers behind it"
        )
    try:
        scores = importance(coupling)
    except AutoCompressError:
        raise
    except Exception as error:  # raised by torch-pruning for unsupported layers
        raise CompressionError(f"its filters cannot be ranked ({type(error).__name__}: {error})") from error
    if scores is None:
        raise CompressionError("its filters cannot be ranked")
    return scores


def by_filter(layer: nn.Module, weight: torch.Tensor) -> torch.Tensor:
    """A tensor of the shape of the layer's weight as one row per filter."""
    if isinstance(layer, TransposedLinear):
        return weight.T
    groups = int(getattr(layer, "groups", 1))
    if getattr(layer, "transposed", False):  # (in, out / groups, ...) -> (out, in / groups, ...)
        inputs, outputs, *kernel = weight.shape
        weight = weight.reshape(groups, inputs // groups, outputs, *kernel).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)
