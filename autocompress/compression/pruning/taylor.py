"""taylorfo: first-order estimate of the loss of each channel, where it is read."""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autocompress.compression.pruning.consumers import ReadSite, by_position, read_sites
from autocompress.compression.pruning.data_importance import require_module
from autocompress.compression.pruning.pruner import Importance, PruningContext
from autocompress.compression.trainer_hooks import run_batches
from autocompress.errors import CompressionError


class Gate:
    """A factor of 1 for each channel of a coupling at all its readers; its gradient is accumulated sample by sample.

    Attributes:
        score: one per channel, the sum so far; None: no gradient was received.
    """

    def __init__(self, places: Sequence[ReadSite], model: nn.Module) -> None:
        self.score: torch.Tensor | None = None
        self._products: dict[int, torch.Tensor] = {}
        for site in places:
            site.watch(model, functools.partial(self._watch, site, model.get_submodule(site.name)))

    def accumulate(self) -> None:
        """Add the gradients of a finished forward and backward pass to the score."""
        for product in self._products.values():
            absolute = product.abs().sum(0)
            self.score = absolute if self.score is None else self.score + absolute
        self._products.clear()

    def _watch(self, site: ReadSite, layer: nn.Module, tensor: torch.Tensor) -> None:
        if tensor.requires_grad and torch.is_grad_enabled():
            hook = functools.partial(self._add_product, site, layer, tensor.detach())
            tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _add_product(self, site: ReadSite, layer: nn.Module, tensor: torch.Tensor, gradient: torch.Tensor) -> None:
        products = by_position(layer, tensor.float() * gradient.float()).sum(1)
        product = site.total(products.nan_to_num(0.0, 0.0, 0.0))  # overflow of a loss scaler
        samples = len(product)
        self._products[samples] = self._products[samples] + product if samples in self._products else product


def taylor(context: PruningContext) -> Importance:
    """First-order estimate of the loss without each channel: activation times gradient where the channel is read.

    Summed over all readers and over the positions of a sample, absolute, summed over samples. Not the sum over a filter
    of weight times gradient: that is zero wherever BatchNorm follows, as the loss does not depend on the filter's scale
    there. BatchNorm and dropout are in eval mode, as in the model that is evaluated.

    Sources: Molchanov et al. 2016, Pruning Convolutional Neural Networks for Resource Efficient Inference,
    arXiv:1611.06440; gates behind the norm: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning,
    arXiv:1906.10771; one gate for all readers of a channel: Liu et al. 2021, Group Fisher Pruning, arXiv:2108.00708.

    Returns:
        scores in the unit of the loss, comparable between couplings.

    Raises:
        CompressionError: no gradient reaches a coupling.
        ModuleError: the user's module lacks a hook.
    """
    request, couplings = context.request, context.couplings
    probe = copy.deepcopy(context.model)
    gates = {coupling.places: Gate(read_sites(coupling, probe, context.behind), probe) for coupling in couplings}

    def settle(*_: Any) -> None:
        for gate in gates.values():
            gate.accumulate()

    probe.register_forward_pre_hook(settle)
    probe.register_forward_pre_hook(_disable_batch_effects)
    run_batches(require_module(request), request.algorithm, probe, int(request.argument("training_batches")), settle)
    unreached = [coupling.members[0] for coupling in couplings if gates[coupling.places].score is None]
    if unreached:
        raise CompressionError(
            f"{request.algorithm} needs gradients where the outputs of the layers that it ranks are read; none arrives "
            f"from {', '.join(unreached)}; train them with gradients, exclude them, or take an algorithm that needs "
            "none, such as l2"
        )
    scores = {places: gate.score.cpu() for places, gate in gates.items() if gate.score is not None}
    return lambda coupling: scores[coupling.places]


def _disable_batch_effects(model: nn.Module, *_: Any) -> None:
    """In any training mode: batches must not normalize each other, nor dropout remove channels."""
    for module in model.modules():
        if isinstance(module, _BatchNorm | _DropoutNd):
            module.eval()
