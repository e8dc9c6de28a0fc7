"""From a request to a filter pruner to how filters are ranked, and which may go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from autocompress.compression.base import CompressionRequest
from autocompress.compression.layers import FILTER_TYPES, supported_layers
from autocompress.compression.pruning.data_importance import activity
from autocompress.compression.pruning.graph import ChannelGraph
from autocompress.compression.pruning.groups import Coupling
from autocompress.compression.pruning.importance import (
    Importance,
    LayerImportance,
    ScaleImportance,
    between,
    distances,
    norms,
    with_norms,
)
from autocompress.compression.pruning.taylor import taylor
from autocompress.errors import ConfigError, unknown_name

_NNCF_IMPORTANCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "L1": lambda rows: rows.abs().sum(1),
    "L2": lambda rows: rows.norm(dim=1),
    "geometric_median": between,
}
_ESTIMATES_OF_LOSS = ("taylorfo",)
_RANKINGS = ("l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation")


def importance_of(
    model: nn.Module, request: CompressionRequest, behind: Mapping[str, str], couplings: Sequence[Coupling]
) -> Importance:
    """How the algorithm of a request ranks filters; those that need data look at it now.

    Args:
        model: not changed.
        request: whose algorithm it is.
        behind: layer -> name of the BatchNorm that alone takes its output, or the layer's own.
        couplings: those that will be ranked.

    Raises:
        CompressionError: the data says nothing about a coupling.
        ConfigError: no filter pruner has that name.
        ModuleError: the user's module lacks a hook that the algorithm needs.
    """
    name, layers = request.algorithm, supported_layers(model, FILTER_TYPES)
    if name == "filter_pruning":
        score = _NNCF_IMPORTANCES[request.argument("filter_importance")]
        scales = {layers[layer]: model.get_submodule(norm) for layer, norm in behind.items()}
        return LayerImportance(with_norms(score, scales), layers)
    if name in ("l1", "l2"):
        return norms(int(name[1]))
    if name == "fpgm":
        return LayerImportance(distances, layers)
    if name == "slim":
        return ScaleImportance(model)
    if name == "taylorfo":
        return taylor(model, request, behind, couplings)
    if name in ("apoz", "mean_activation"):
        return activity(model, request, behind, couplings)
    raise ConfigError(unknown_name("filter pruning algorithm", name, _RANKINGS))


def is_global(request: CompressionRequest) -> bool:
    """Whether all layers are ranked together."""
    if request.algorithm == "filter_pruning":
        return bool(request.argument("all_weights"))
    return bool(request.argument("mode") == "global")


def comparable(request: CompressionRequest, coupling: Coupling, scores: Sequence[float]) -> list[float]:
    """Scores of a coupling, ascending, such that all couplings can be ranked together.

    Estimates of the loss are comparable as they are, counted for each filter that goes; others are taken relative to
    the coupling's mean size.
    """
    if request.algorithm in _ESTIMATES_OF_LOSS:
        return sorted(score / len(coupling.members) for score in scores)
    mean = sum(abs(score) for score in scores) / len(scores) or 1.0
    return sorted(score / mean for score in scores)


def selectable(
    model: nn.Module, request: CompressionRequest, graph: ChannelGraph, rates: Mapping[str, float]
) -> list[str]:
    """The layers with a rate that may lose filters: NNCF spares the first convolutions and those that downsample."""
    if request.algorithm != "filter_pruning":
        return list(rates)
    first = set() if request.argument("prune_first_conv") else graph.first_convolutions()
    downsampling = request.argument("prune_downsample_convs")
    return [
        name for name in rates if name not in first and (downsampling or not _downsamples(model.get_submodule(name)))
    ]


def _downsamples(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and not layer.transposed and all(stride > 1 for stride in layer.stride)
