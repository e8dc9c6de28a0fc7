"""Modules whose accuracy is a closed form of the compression rate in [0, 1) and the epochs trained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim import Optimizer

from autocompress.compression.module import AbstractAutoCompressionModule, Evaluator, Trainer

Curve = Callable[[float, int], float]
"""(compression rate, epochs trained) -> accuracy."""


def cliff(edge: float, *, high: float = 0.9, low: float = 0.5, epochs_needed: int = 0) -> Curve:
    """`high` up to the edge, after `epochs_needed` epochs; `low` beyond it."""
    return lambda rate, epochs: high if rate <= edge + 1e-9 and (rate == 0 or epochs >= epochs_needed) else low


def knee(middle: float, *, top: float = 0.9, drop: float = 0.5, width: float = 0.03) -> Curve:
    """Flat, then falling by `drop` around `middle`."""
    return lambda rate, _: top - drop / (1 + math.exp(-(rate - middle) / width))


def flat(accuracy: float = 0.9) -> Curve:
    """Constant: every rate is feasible."""
    return lambda _, __: accuracy


def never(*, top: float = 0.9, low: float = 0.1) -> Curve:
    """High only for the uncompressed, untrained model: no rate is feasible."""
    return lambda rate, epochs: top if rate == 0 and epochs == 0 else low


def noisy(curve: Curve, noise: Sequence[float]) -> Curve:
    """Another curve with noise that depends on the epochs trained."""
    return lambda rate, epochs: curve(rate, epochs) + noise[epochs % len(noise)]


class CurveNet(nn.Module):
    """One hidden layer whose width follows the compression rate, and a count of the epochs trained.

    Args:
        width: hidden features of the uncompressed model.
    """

    epochs: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, width)
        self.head = nn.Linear(width, 2)
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4) -> (batch, 2)."""
        answer: torch.Tensor = self.head(torch.relu(self.hidden(x)))
        return answer


class CurveModule(AbstractAutoCompressionModule):
    """Derive from it and set `curve`; the search space's layer is `Linear`, or `hidden` by name.

    Attributes:
        curve: (compression rate, epochs trained) -> accuracy.
        width: hidden features of the uncompressed model; the rate moves in steps of 1 / width.
        seconds_per_epoch: duration of an epoch.
    """

    curve: ClassVar[Curve] = staticmethod(knee(0.7))
    width: ClassVar[int] = 400
    seconds_per_epoch: ClassVar[float] = 0.0

    @classmethod
    def model(cls) -> nn.Module:
        """A net with fixed weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return CurveNet(cls.width)

    @classmethod
    def evaluator(cls) -> Evaluator:
        """The curve at the model's achieved rate; without its output layer a model is worse by 1."""

        def evaluate(model: nn.Module) -> float:
            accuracy = cls.curve(cls.rate(model), int(model.epochs))  # type: ignore[arg-type]
            head: Any = model.get_submodule("head")
            if bool(head.weight.any()):
                return accuracy
            return accuracy - 1 if cls.higher_is_better else accuracy + 1

        return evaluate

    @classmethod
    def rate(cls, model: nn.Module) -> float:
        """The achieved rate: the share of hidden features removed, or of weights that are zero."""
        hidden: Any = model.get_submodule("hidden")
        zeros = float((hidden.weight == 0).float().mean())
        return zeros if zeros > 0 else 1 - hidden.out_features / cls.width

    @classmethod
    def optimizer_factory(cls) -> Callable[[Iterable[Any]], Optimizer]:
        """Plain SGD."""
        return lambda parameters: torch.optim.SGD(parameters, lr=0.1)

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name: str) -> Trainer | None:  # noqa: ARG003
        """Counts the epoch."""
        return cls.train_epoch

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name: str) -> int:  # noqa: ARG003
        """Two epochs under built-in tuners."""
        return 2

    @classmethod
    def train_epoch(cls, model: nn.Module, optimizer: Optimizer, criterion: Any, epoch: int) -> None:  # noqa: ARG003
        """Wait, change the last bias, and count the epoch."""
        time.sleep(cls.seconds_per_epoch)
        bias: Any = model.get_parameter("head.bias")
        bias.grad = torch.ones_like(bias)
        optimizer.step()
        model.get_buffer("epochs").add_(1)

    @classmethod
    def example_inputs(cls) -> Any:
        """One sample."""
        return torch.ones(1, 4)
