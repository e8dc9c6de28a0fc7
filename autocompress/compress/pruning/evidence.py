"""Importances that look at data, apoz and mean_activation, and the training that slim does before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compress.base import CompressionRequest
from autocompress.compress.module import ModuleClass
from autocompress.compress.pruning.coupling import Coupling
from autocompress.compress.pruning.importance import Importance
from autocompress.compress.pruning.sights import FUNCTIONS, Sight, activity_of_layers, seen
from autocompress.compress.sparsifying import input_batches, run_epochs
from autocompress.errors import CompressionError, ModuleError

_logger = logging.getLogger("autocompress.compress")


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

    run_epochs(module_of(request), request.algorithm, model, epochs, penalise)
    return epochs


def activity(
    model: nn.Module, request: CompressionRequest, behind: Mapping[str, str], couplings: Sequence[Coupling]
) -> Importance:
    """What the channels of couplings do on data: apoz how often they are not zero, mean_activation how large they are.

    By default channels are looked at where the layers behind read them, after the non-linearity that really follows.

    apoz: the share of values that are not zero, before pooling. It finds channels that are nearly always zero, in nets
    with ReLU and without BatchNorm. Where BatchNorm comes before the non-linearity, how often a channel is zero says
    nothing of its worth; the correlation with the loss is 0 or below there. A coupling without any zeros is ranked by
    mean_activation.

    mean_activation: the quadratic mean times the norm of the weights that read the channel, added over all that reads
    it, as a channel matters as much as what the next layers get of it. It ranks single channels of trained nets better
    by the loss than the mean absolute value does, weighted or not. Models cut by it and fine-tuned are as accurate as
    with the weighted mean, and more accurate than with the plain one.

    Sources: Hu et al. 2016, Network Trimming, arXiv:1607.03250; Molchanov et al. 2016, Pruning Convolutional Neural
    Networks for Resource Efficient Inference, arXiv:1611.06440.

    Args:
        model: not changed.
        request: with the user's module; its `activation` is a function that is applied to the output of each layer, or
            of the BatchNorm behind it, instead.
        behind: layer -> the BatchNorm that alone takes its output, or the layer itself.
        couplings: those to judge.

    Raises:
        CompressionError: apoz finds no zeros at all.
    """
    inputs = input_batches(module_of(request), request.algorithm, model, int(request.argument("training_batches")))
    function = str(request.argument("activation"))
    if function in FUNCTIONS:
        return activity_of_layers(model, inputs, behind, couplings, FUNCTIONS[function], request.algorithm == "apoz")
    sights = seen(model, inputs, behind, couplings)
    if request.algorithm == "apoz":
        return _by_zeros(sights, couplings)
    return lambda coupling: sights[coupling.places].contribution


def _by_zeros(sights: Mapping[Any, Sight], couplings: Sequence[Coupling]) -> Importance:
    never = [coupling for coupling in couplings if not sights[coupling.places].has_zeros]
    names = ", ".join(coupling.members[0] for coupling in never)
    if couplings and len(never) == len(couplings):
        raise CompressionError(
            f"apoz ranks filters by how often their activations are zero; behind {names} none ever is (as behind GELU, "
            "SiLU or tanh); take mean_activation or taylorfo, or count negative values: activation='relu'"
        )
    if never:
        _logger.warning("apoz finds no zeros behind %s; ranked by mean_activation", names)

    def score(coupling: Coupling) -> torch.Tensor:
        sight = sights[coupling.places]
        return sight.nonzero if sight.has_zeros else sight.contribution

    return score


def _scales(model: nn.Module) -> list[nn.Parameter]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [norm.weight for norm in norms if norm.weight is not None]


def module_of(request: CompressionRequest) -> ModuleClass:
    """The user's module.

    Raises:
        ModuleError: the request has none.
    """
    if request.module is None:
        raise ModuleError(f"algorithm {request.algorithm!r} needs the user's module; the request has none")
    return request.module
