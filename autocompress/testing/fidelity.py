"""Correlation of an importance's scores with the loss without each channel.

For your own model:

    from autocompress.testing.fidelity import Measured, fidelity

    measured = Measured.of(MyModule, loss)         # loss(model) -> float, on training data
    for found in fidelity(measured, "taylorfo"):
        print(found.members, found.correlation)

It measures how well an algorithm finds the single channel that matters least, not the effect of removing many channels
and fine-tuning.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, layer_shapes, recalibrate
from autocompress.compression.model_state import copy_model, eval_mode, require_gradients
from autocompress.compression.module import ModuleClass, batch_input
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.data_importance import sparsify_scales
from autocompress.compression.pruning.groups import Coupling, removals, remove
from autocompress.compression.pruning.pruning_plan import PruningPlan
from autocompress.layer_selector import LayerRule

FEWEST = 8
"""Channels of a coupling below which a rank correlation says little."""

Loss = Callable[[nn.Module], float]


@dataclass(frozen=True)
class Damage:
    """The effect of removing single channels of a coupling.

    Attributes:
        members: the layers that lose filters together.
        losses: rise of the loss without each channel, BatchNorm recalibrated.
    """

    members: tuple[str, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Measured:
    """A model, and the effect of each of its channels on the loss.

    Attributes:
        module: of the model.
        model: not changed.
        damages: of each coupling.
    """

    module: ModuleClass
    model: nn.Module
    damages: tuple[Damage, ...]

    @classmethod
    def of(cls, module: ModuleClass, loss: Loss) -> Measured:
        """Remove each channel of the module's model alone, on copies, and measure the loss.

        Args:
            module: with calibration data, on which BatchNorm is recalibrated.
            loss: of a model, on training data; lower is better.
        """
        model = module.model()
        request = _request(module, model, "l2", {})
        before = loss(_recalibrated(copy_model(model), module))
        damages = []
        for coupling in _channels(model, request).couplings:
            if coupling.alike:  # parts of a recurrent layer lose their own channels
                continue
            parts = range(coupling.channel_groups)
            size = coupling.width // len(parts)
            lost = [[part * size + channel for part in parts] for channel in range(size)]
            losses = tuple(loss(_without(model, module, coupling, channels)) - before for channels in lost)
            damages.append(Damage(coupling.members, losses))
        return cls(module, model, tuple(damages))


@dataclass(frozen=True)
class Fidelity:
    """How well an algorithm ranks the channels of a coupling.

    Attributes:
        members: the layers that lose filters together.
        channels: number of ranked channels.
        correlation: Spearman's, in [-1, 1], of scores and measured losses; 0 if the scores are all the same.
    """

    members: tuple[str, ...]
    channels: int
    correlation: float


def fidelity(measured: Measured, algorithm: str, **arguments: Any) -> list[Fidelity]:
    """The rank correlation of a filter pruner's scores, for each coupling with at least `FEWEST` channels.

    Raises:
        AutoCompressError: the algorithm cannot be applied to the model.
    """
    ranked = scores(measured.module, measured.model, algorithm, **arguments)
    return [
        Fidelity(damage.members, len(damage.losses), rank_correlation(ranked[damage.members], damage.losses))
        for damage in measured.damages
        if damage.members in ranked and len(damage.losses) >= FEWEST
    ]


def mean_fidelity(measured: Measured, algorithm: str, **arguments: Any) -> float:
    """The mean of the correlations over the couplings; see `fidelity`."""
    return statistics.mean(found.correlation for found in fidelity(measured, algorithm, **arguments))


def scores(
    module: ModuleClass, model: nn.Module, algorithm: str, **arguments: Any
) -> dict[tuple[str, ...], tuple[float, ...]]:
    """An algorithm's scores of the channels of each coupling, by its members; higher is more important.

    Raises:
        AutoCompressError: the algorithm cannot be applied to the model.
    """
    model = copy_model(model)
    request = _request(module, model, algorithm, arguments)
    if algorithm == "slim":
        sparsify_scales(model, request)
    channels = _channels(model, request)
    with eval_mode(model), require_gradients(model):
        cut = PruningPlan.of(model, request, channels)
    return {coupling.members: tuple(found) for coupling, found in zip(cut.couplings, cut.scores, strict=True)}


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's correlation, ties at their mean rank; 0 if one side is constant."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    if bool((ranks.std(dim=1) == 0).any()):
        return 0.0
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: Sequence[float]) -> torch.Tensor:
    row = torch.tensor(values, dtype=torch.float64)
    below, same = row[:, None] > row, row[:, None] == row
    return below.sum(1) + (same.sum(1) - 1) / 2


def _request(module: ModuleClass, model: nn.Module, algorithm: str, arguments: dict[str, Any]) -> CompressionRequest:
    batch = batch_input(next(iter(module.calibration_data() or ())))
    rules = (LayerRule(("default",), rate=0.5),)
    return CompressionRequest(algorithm, rules, (batch[:2],), layer_shapes(model), arguments, module)


def _channels(model: nn.Module, request: CompressionRequest) -> Channels:
    with eval_mode(model), require_gradients(model):
        return Channels.of(model, request, layer_shapes(model))


def _without(model: nn.Module, module: ModuleClass, coupling: Coupling, channels: Sequence[int]) -> nn.Module:
    smaller = copy_model(model)
    remove(smaller, removals([(coupling, channels)]))
    return _recalibrated(smaller, module)


def _recalibrated(model: nn.Module, module: ModuleClass) -> nn.Module:
    recalibrate(model, module.calibration_data() or ())
    return model
