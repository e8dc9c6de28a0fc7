"""`rb_sparsity`: which weights are zero is learned, by a loss on the share of those that stay.

Source: Louizos et al. 2018, Learning Sparse Neural Networks through L0 Regularization, arXiv:1712.01312, in the form of
NNCF's "regularization-based" sparsity: a Bernoulli mask for each weight, straight-through gradients, and a loss that
pulls the expected share of weights that stay to the schedule's level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from autocompress.compression.base import WEIGHT, WeightTransform
from autocompress.compression.pruning.sparsity import zero_share
from autocompress.compression.quantization.rounding import straight_through
from autocompress.nncf.algorithms import LevelPartBase, RequestAtLevel
from autocompress.nncf.schedules import Schedule

_LOGIT_AT_FIRST = math.log(0.99 / (1 - 0.99))
_WIDTH = 0.05
"""The loss is 1 where the expected sparsity is so far from its level."""
_PULL = 10
_REACHED = 0.01
_EPSILON = 1e-6


class LearnedMask(WeightTransform):
    """Parametrization that keeps a weight with a probability that is learned.

    In training mode a weight is drawn to stay or not, else it stays if that is the likelier.

    Args:
        weight: the smaller a value is, the less likely it stays at first. NNCF begins with one score for all, and they
            fall together.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        sizes = weight.detach().abs().float()
        relative = (sizes / sizes.square().mean().sqrt().clamp_min(_EPSILON)).clamp_min(_EPSILON).log()
        self.score = nn.Parameter(_LOGIT_AT_FIRST + relative)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with zeros, of the same shape."""
        drawn: torch.Tensor = self.score
        if self.training and torch.is_grad_enabled() and self.score.requires_grad:
            uniform = torch.rand_like(self.score).clamp(_EPSILON, 1 - _EPSILON)
            drawn = self.score + torch.log(uniform / (1 - uniform))
        kept: torch.Tensor = weight * straight_through(torch.sigmoid(drawn), (drawn > 0).to(weight))
        return kept.masked_fill(drawn <= 0, 0.0) if not kept.requires_grad else kept


class LearnedPart(LevelPartBase):
    """`rb_sparsity`. Implements `algorithms.LevelPart`."""

    def __init__(self, request: RequestAtLevel, schedule: Schedule) -> None:
        super().__init__("rb_sparsity", request, schedule)

    def attach(self, model: nn.Module) -> None:
        """Add the scores as parameters of the model, which its optimizer trains."""
        super().attach(model)
        self._layers = self._masked_layers(model)
        self._masks = []
        for name in self._layers:
            layer = model.get_submodule(name)
            mask = LearnedMask(cast(torch.Tensor, layer.weight))
            parametrize.register_parametrization(layer, WEIGHT, mask)
            self._masks.append(mask)

    def set_level(self, level: float, plain: nn.Module) -> None:  # noqa: ARG002
        """Pull the loss there from now on."""
        self.level = level

    def reached(self) -> bool:
        """Whether the expected sparsity is at the level."""
        return abs(float(self._expected()) - self.level) <= _REACHED

    def sparsity(self) -> float:
        """Share of the weights that are zero when the model is evaluated."""
        zeros = sum(int((mask.score <= 0).sum()) for mask in self._masks)
        return zeros / sum(mask.score.numel() for mask in self._masks)

    def loss(self) -> torch.Tensor | None:
        """((expected sparsity - level) / 0.05) squared.

        Its gradient is that of ten times the number of weights: as large for each score in a large model as in a
        small one.
        """
        distance = self._expected() - self.level
        values = sum(mask.score.numel() for mask in self._masks)
        return straight_through(_PULL * values * distance.square(), (distance.detach() / _WIDTH).square())

    def _expected(self) -> torch.Tensor:
        return 1 - torch.cat([torch.sigmoid(mask.score).flatten() for mask in self._masks]).mean()

    def freeze(self) -> None:
        """Train the scores no longer."""
        for mask in self._masks:
            mask.score.requires_grad_(False)

    def get_state(self) -> dict[str, Any]:
        """The level, and whether scores are frozen."""
        return {"level": self.level, "frozen": not self._masks[0].score.requires_grad}

    def load_state(self, state: Mapping[str, Any], plain: nn.Module) -> None:  # noqa: ARG002
        """Restore them."""
        self.level = float(state["level"])
        if state["frozen"]:
            self.freeze()

    def achieved_rate(self, model: nn.Module, *, whole_model: bool = False) -> float:  # noqa: ARG002
        """Share of the weights that are zero."""
        return zero_share(model, self._layers)
