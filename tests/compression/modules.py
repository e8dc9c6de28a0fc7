"""User modules for the tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from autocompress.compression.module import AbstractAutoCompressionModule

from .nets import Plain, Words, build

_MODEL = build("plain")


class Minimal(AbstractAutoCompressionModule):
    """Only what must be written, with one global model."""

    @classmethod
    def model(cls) -> nn.Module:
        return _MODEL

    @classmethod
    def evaluator(cls) -> Callable[[nn.Module], float]:
        def evaluate(model: nn.Module) -> float:
            model.eval()
            with torch.no_grad():
                return float(model(torch.ones(4, 3, 8, 8)).argmax(1).float().mean())

        return evaluate


class Calibrated(Minimal):
    @classmethod
    def calibration_data(cls) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.full((6, 3, 8, 8), 2.0), torch.zeros(6))]


class Explicit(Calibrated):
    @classmethod
    def example_inputs(cls) -> torch.Tensor:
        return torch.zeros(2, 3, 8, 8, requires_grad=True)


class TiedWords(AbstractAutoCompressionModule):
    @classmethod
    def model(cls) -> nn.Module:
        torch.manual_seed(0)
        return Words()

    @classmethod
    def evaluator(cls) -> Callable[[nn.Module], float]:
        return lambda model: float(model(torch.tensor([[1, 2], [3, 4]])).mean())


class NotAModel(Minimal):
    @classmethod
    def model(cls) -> nn.Module:
        return "resnet18"


class Subclassed(Plain):
    pass
