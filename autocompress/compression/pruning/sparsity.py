"""Unstructured sparsity: the smallest weights are zeroed, of each layer or of all layers together.

Source: Han et al. 2015, Learning both Weights and Connections for Efficient Neural Networks, arXiv:1506.02626;
`magnitude_sparsity` and its options are NNCF's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import (
    WEIGHT,
    CompressionRequest,
    WeightTransform,
    computed_by,
    fold_parametrizations,
)
from autocompress.compression.layers import (
    layer_rates,
    require_one_rate,
    supported_layers,
    unknown_layers,
    weight_types,
)
from autocompress.compression.model_state import tied_parameters
from autocompress.compression.pruning.pruner import WeightPruner
from autocompress.compression.quantization.stored_linear import StoredLinear
from autocompress.errors import CompressionError
from autocompress.registry import algorithm

_TINY = torch.finfo(torch.float32).tiny


class Mask(WeightTransform):
    """Parametrization that keeps weights at zero during training; `pruned` is True where the weight is zero."""

    pruned: torch.Tensor

    def __init__(self, pruned: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("pruned", pruned)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with exact zeros; not a product, which would leave -0.0 and NaN."""
        return weight.masked_fill(self.pruned, 0.0)


@dataclass(frozen=True)
class LevelCompression:
    """A model with masks on the weights of `targets` except `left_alone`; `layers` are all that could have one."""

    model: nn.Module
    targets: tuple[str, ...]
    layers: tuple[str, ...]
    left_alone: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    converts: bool = False
    epochs: int = 0

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:
        """Share of weights that are zero."""
        return zero_share(model, self.layers if whole_model else self.targets)

    def finish(self, model: nn.Module) -> nn.Module:
        """Write the zeros into the weights and remove the masks."""
        return fold_parametrizations(model)


class WeightCompressor:
    """Zeroes the smallest weights."""

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check the rules against the model."""
        rates = self._rates(model, request)
        require_plain_weights(model, rates)
        require_some_plain(rates, computed_weights(model, rates))
        if _pruner(request).allocation(request) == "global":
            require_one_rate(rates, "one global ranking")

    def compress(self, model: nn.Module, request: CompressionRequest) -> LevelCompression:
        """Mask the number of weights nearest to the rate, of each layer or of all together.

        Of equal weights the first in memory are masked. Zeros from a lower rate stay, as they are the smallest.

        Raises:
            ConfigError: rules that do not fit the model, or several rates in one global ranking.
            CompressionError: nothing would change at a rate > 0; a shared weight cannot have a mask.
        """
        rates, pruned = self._rates(model, request), self.masks(model, request)
        left_alone = {
            **unknown_layers(model, request.targets, request.algorithm),
            **computed_weights(model, rates),
        }
        if max(rates.values()) > 0 and not any(bool(mask.any()) for mask in pruned.values()):
            counts = ", ".join(f"{name}: {mask.numel()}" for name, mask in pruned.items())
            raise CompressionError(
                f"{request.algorithm} must zero something at a rate > 0; at rate {max(rates.values()):g} the selected "
                f"layers have too few weights (weights: {counts})"
            )
        for name, mask in pruned.items():
            parametrize.register_parametrization(model.get_submodule(name), WEIGHT, Mask(mask))
        layers = tuple(supported_layers(model, weight_types(request.algorithm)))
        return LevelCompression(model, tuple(rates), layers, left_alone)

    def masks(self, model: nn.Module, request: CompressionRequest) -> dict[str, torch.Tensor]:
        """Layer -> which of its weights would be zero; checks the request and does not change the model."""
        self.check(model, request)
        rates = self._rates(model, request)
        left_alone = computed_weights(model, rates)
        return _masks(model, {name: rate for name, rate in rates.items() if name not in left_alone}, request)

    def _rates(self, model: nn.Module, request: CompressionRequest) -> dict[str, float]:
        return layer_rates(model, request.targets, weight_types(request.algorithm), request.scopes)


def _pruner(request: CompressionRequest) -> WeightPruner:
    known = algorithm(request.algorithm)
    assert isinstance(known, WeightPruner)
    return known


def _masks(model: nn.Module, rates: Mapping[str, float], request: CompressionRequest) -> dict[str, torch.Tensor]:
    weights = {name: _weight(model, name) for name in rates}
    pruner = _pruner(request)
    if pruner.allocation(request) != "global":
        return {name: smallest(weights[name], rate) for name, rate in rates.items()}
    rated = [pruner.score(weight, request) for weight in weights.values()]
    pruned = smallest(torch.cat([weight.flatten().float().cpu() for weight in rated]), next(iter(rates.values())))
    parts = pruned.tensor_split(list(itertools.accumulate(weight.numel() for weight in rated))[:-1])
    return {
        name: part.reshape(weight.shape).to(weight.device)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def normed(weight: torch.Tensor) -> torch.Tensor:
    """NNCF's importance of weights: divided by the layer's norm, so that different layers can be ranked together."""
    norm: torch.Tensor = torch.linalg.vector_norm(weight.float())
    return weight.float().div(norm.clamp_min(_TINY))


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
    """Share in [0, 1] of the weights of these layers that are exactly zero; those of the user's masks do not count."""
    weights = {name: _weight(model, name) for name in layers}
    total = sum(weight.numel() for weight in weights.values())
    left_alone = computed_weights(model, weights)
    zeros = sum(int((weight == 0).sum()) for name, weight in weights.items() if name not in left_alone)
    return zeros / total if total else 0.0


def _weight(model: nn.Module, name: str) -> torch.Tensor:
    layer = model.get_submodule(name)
    return (layer.values() if isinstance(layer, StoredLinear) else cast(torch.Tensor, layer.weight)).detach()


def computed_weights(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """Those of these layers whose weights the user's code computes from others, each with why it is left alone."""
    how = {name: computed_by(model.get_submodule(name)) for name in layers}
    return {
        name: f"{name}: its weight is computed from other parameters, by {found}; it stays as it is"
        for name, found in how.items()
        if found is not None
    }


def require_some_plain(layers: Iterable[str], left_alone: Mapping[str, str]) -> None:
    """Check that not all layers are left alone; CompressionError if they are."""
    if set(layers) <= left_alone.keys():
        raise CompressionError(
            f"at least one weight must be plain; {'; '.join(left_alone.values())} (torch.nn.utils.parametrize."
            "remove_parametrizations and torch.nn.utils.prune.remove make weights plain)"
        )


def require_plain_weights(model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Check that weights can have our parametrizations.

    Args:
        model: not changed.
        settings: layer -> setting of its weight; None: it is not compressed.

    Raises:
        CompressionError: a registered module has no weight; a weight is shared by layers with different settings.
    """
    for name in [name for name, setting in settings.items() if setting is not None]:
        layer = model.get_submodule(name)
        if not isinstance(getattr(layer, WEIGHT, None), torch.Tensor):
            raise CompressionError(f"a registered module must have a parameter named weight; {name} has none")
    for places in tied_parameters(model):
        if len({settings.get(module) for module, _ in places}) > 1:  # only some modules would see the change
            shared = ", ".join(f"{module}.{key}" for module, key in places)
            raise CompressionError(
                f"a shared weight must have one setting in all its places; {shared} have different ones"
            )
