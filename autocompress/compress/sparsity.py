"""Unstructured sparsity: level zeroes the smallest weights of each layer.

Source: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv:1506.02626.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import WEIGHT_TYPES, layer_rates, supported_layers
from autocompress.compress.ties import tied_parameters
from autocompress.errors import CompressionError

_WEIGHT = "weight"


class Mask(nn.Module):
    """Parametrization that holds weights at zero through training.

    Attributes:
        pruned: True where the weight is zero; a buffer of the weight's shape.
    """

    pruned: torch.Tensor

    def __init__(self, pruned: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("pruned", pruned)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with exact zeros; not a product, which would leave -0.0 and NaN."""
        return weight.masked_fill(self.pruned, 0.0)


@dataclass(frozen=True)
class LevelCompression:
    """A model with masks on its weights.

    Attributes:
        model: the masked model, the object that was given.
        targets: names of the masked layers.
        layers: names of all layers whose weights could be zeroed.
    """

    model: nn.Module
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    simulated: bool = False
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of weights that are zero; see `base.Compression`."""
        return zero_share(model, self.layers if whole_model else self.targets)

    def finish(self, model: nn.Module) -> nn.Module:
        """Write the zeros into the weights and take the masks off; see `base.Compression`."""
        return fold_masks(model)


class LevelPruner:
    """Zeroes the weights with the smallest magnitude of each layer. Implements `base.Compressor`."""

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules against the model; see `base.Compressor`."""
        _require_maskable(model, layer_rates(model, request.targets, WEIGHT_TYPES, request.scopes))

    def compress(self, model: nn.Module, request: CompressionRequest) -> LevelCompression:
        """Mask exactly the nearest number of weights to each layer's rate; ties go to the first in memory.

        A model that has zeros already (from a lower rate) keeps them, as they are the smallest.

        Raises:
            ConfigError: rules that do not fit the model.
            CompressionError: nothing would change at a rate > 0; a weight is shared or parametrized in a way a mask
                cannot hold.
        """
        rates = layer_rates(model, request.targets, WEIGHT_TYPES, request.scopes)
        layers = tuple(supported_layers(model, WEIGHT_TYPES))
        _require_maskable(model, rates)
        pruned = {name: smallest(_weight(model, name), rate) for name, rate in rates.items()}
        if max(rates.values()) > 0 and not any(bool(mask.any()) for mask in pruned.values()):
            counts = ", ".join(f"{name}: {mask.numel()}" for name, mask in pruned.items())
            raise CompressionError(
                f"level must zero something at a rate > 0; at rate {max(rates.values()):g} the selected layers "
                f"have too few weights (weights: {counts})"
            )
        for name, mask in pruned.items():
            parametrize.register_parametrization(model.get_submodule(name), _WEIGHT, Mask(mask))
        return LevelCompression(model, tuple(rates), layers)


def smallest(weight: torch.Tensor, rate: float) -> torch.Tensor:
    """True at exactly floor(n * rate + 0.5) weights: the smallest in magnitude, the first in memory among equals."""
    count = math.floor(weight.numel() * rate + 0.5)
    magnitudes: np.ndarray[Any, np.dtype[Any]] = weight.detach().abs().float().cpu().numpy().ravel()
    pruned = np.zeros(magnitudes.shape, dtype=bool)
    if count:
        limit = np.partition(magnitudes, count - 1)[count - 1]
        pruned = magnitudes < limit
        pruned[np.flatnonzero(magnitudes == limit)[: count - int(pruned.sum())]] = True
    return torch.from_numpy(pruned).reshape(weight.shape).to(weight.device)


def zero_share(model: nn.Module, layers: Iterable[str]) -> float:
    """Share in [0, 1] of the weights of these layers that are exactly zero, all layers' weights counted alike."""
    weights = [_weight(model, name) for name in layers]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0


def fold_masks(model: nn.Module) -> nn.Module:
    """Write all masks' zeros into the weights and take the masks off: same outputs, original names and order."""
    for module in model.modules():
        if _masked(module):
            _fold(module)
    return model


def _fold(module: nn.Module) -> None:
    """As parametrize.remove_parametrizations, which would take the masks off all deep copies of the module too."""
    parameter = cast(Any, module.parametrizations)[_WEIGHT].original
    with torch.no_grad():
        parameter.copy_(module.weight)
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    module.register_parameter(_WEIGHT, parameter)
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: item[0] != _WEIGHT))


def _masked(module: nn.Module) -> bool:
    if not parametrize.is_parametrized(module, _WEIGHT):
        return False
    return any(isinstance(step, Mask) for step in cast(Any, module.parametrizations)[_WEIGHT])


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    return cast(torch.Tensor, model.get_submodule(name).weight).detach()


def _require_maskable(model: nn.Module, rates: Mapping[str, float]) -> None:
    for name in rates:
        if parametrize.is_parametrized(model.get_submodule(name)):
            raise CompressionError(
                f"level needs plain weights; {name} is parametrized: remove that or exclude the layer"
            )
    for places in tied_parameters(model):
        found = {rates.get(module) for module, _ in places}
        if len(found) > 1:  # one module would see the zeros, another would not
            shared = ", ".join(f"{module}.{key}" for module, key in places)
            raise CompressionError(
                f"a shared weight must have one rate in all its places; {shared} have different ones"
            )
