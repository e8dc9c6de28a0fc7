"""Importances that are measured on data: taylorfo, apoz, mean_activation; and the training that slim does before."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compress.base import CompressionRequest
from autocompress.compress.module import ModuleClass
from autocompress.compress.pruning.importance import LayerScore, by_filter
from autocompress.compress.sparsifying import input_batches, run_batches, run_epochs, show
from autocompress.errors import CompressionError, ModuleError

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "gelu": functional.gelu,
}


def require_scales(model: nn.Module) -> None:
    """Check that a model has BatchNorm layers with scales.

    Raises:
        CompressionError: it has none.
    """
    if not _scales(model):
        raise CompressionError("slim ranks filters by the scales of BatchNorm layers; the model has none")


def sparsify_scales(model: nn.Module, request: CompressionRequest) -> int:
    """Train with an L1 penalty on BatchNorm's scales, in place; the number of epochs.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, arXiv:1708.06519.

    Raises:
        CompressionError: the model has no BatchNorm layers.
        ModuleError: the user's module lacks a hook.
    """
    require_scales(model)
    scales, strength = _scales(model), float(request.argument("scale"))
    epochs = int(request.argument("training_epochs"))

    def penalise() -> None:
        for scale in scales:
            if scale.grad is not None:
                scale.grad.add_(scale.detach().sign(), alpha=strength)

    run_epochs(_module(request), request.algorithm, model, epochs, penalise)
    return epochs


def taylor(model: nn.Module, request: CompressionRequest, layers: Mapping[str, nn.Module]) -> LayerScore:
    """First-order estimate of what removing each filter costs: squared sum of weight times gradient, over batches.

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, arXiv:1906.10771.

    Args:
        model: not changed.
        request: with the user's module.
        layers: the layers to judge, by name.
    """
    probe = copy.deepcopy(model)
    probed = {name: probe.get_submodule(name) for name in layers}
    scores = {name: torch.zeros(1) for name in layers}

    def add() -> None:
        for name, layer in probed.items():
            weight = cast(torch.Tensor, layer.weight)
            if weight.grad is not None:
                products = by_filter(layer, weight.detach() * weight.grad).sum(1).square()
                scores[name] = scores[name].to(products.device) + products

    run_batches(_module(request), request.algorithm, probe, int(request.argument("training_batches")), add)
    return _looked_up(scores, layers)


def activity(
    model: nn.Module, request: CompressionRequest, layers: Mapping[str, nn.Module], judged: Mapping[str, nn.Module]
) -> LayerScore:
    """apoz: how often each filter's activation is not zero; mean_activation: its mean.

    Sources: Hu et al. 2016, Network Trimming, arXiv:1607.03250; Molchanov et al. 2016, Pruning Convolutional Neural
    Networks for Resource Efficient Inference, arXiv:1611.06440.

    Args:
        model: not changed.
        request: with the user's module.
        layers: the layers to judge, by name.
        judged: layer -> the module whose output is looked at: the layer, or a BatchNorm behind it.
    """
    activate = _FUNCTIONS[str(request.argument("activation"))]
    totals: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watcher(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        channel = -1 if isinstance(layers[name], nn.Linear) and isinstance(judged[name], nn.Linear) else 1

        def watch(_: nn.Module, __: Any, output: torch.Tensor) -> None:
            active = activate(output.detach()).movedim(channel, 0).flatten(1)
            seen = (active != 0).float() if request.algorithm == "apoz" else active
            totals[name] = totals.get(name, torch.zeros(1, device=seen.device)) + seen.sum(1)
            counts[name] = counts.get(name, 0) + seen.shape[1]

        return watch

    inputs = input_batches(_module(request), request.algorithm, model, int(request.argument("training_batches")))
    handles = [judged[name].register_forward_hook(watcher(name)) for name in layers]
    try:
        show(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return _looked_up({name: totals[name] / counts[name] for name in totals}, layers)


def _looked_up(scores: Mapping[str, torch.Tensor], layers: Mapping[str, nn.Module]) -> LayerScore:
    by_layer = {layers[name]: score for name, score in scores.items()}

    def score(layer: nn.Module) -> torch.Tensor:
        found, width = by_layer.get(layer), int(by_filter(layer, cast(torch.Tensor, layer.weight)).shape[0])
        if found is None or found.numel() != width:  # never called in forward, or without a gradient
            return torch.zeros(width)
        return found.cpu()

    return score


def _scales(model: nn.Module) -> list[nn.Parameter]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm.weight for norm in norms if norm.weight is not None]


def _module(request: CompressionRequest) -> ModuleClass:
    if request.module is None:
        raise ModuleError(f"algorithm {request.algorithm!r} needs the user's module; the request has none")
    return request.module
