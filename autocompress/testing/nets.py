"""The networks of the zoo."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def cnn(norm: Callable[[int], nn.Module]) -> nn.Module:
    """(batch, 3, 16, 16) -> (batch, 10): three convolutions, each with a norm, and two linear layers."""
    return nn.Sequential(
        *block(3, 16, norm),
        nn.MaxPool2d(2),
        *block(16, 32, norm),
        nn.MaxPool2d(2),
        *block(32, 32, norm),
        nn.Flatten(),
        nn.Linear(32 * 16, 48),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(48, 10),
    )


def vgg_bn() -> nn.Module:
    """(batch, 3, 16, 16) -> (batch, 10): pairs of convolutions between poolings, three linear layers."""
    widths, layers, inputs = ((16, 16), (32, 32), (64, 64)), list[nn.Module](), 3
    for pair in widths:
        for width in pair:
            layers += block(inputs, width, nn.BatchNorm2d)
            inputs = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Linear(64 * 4, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return nn.Sequential(*layers, nn.Flatten(), *head)


def grouped_cnn() -> nn.Module:
    """(batch, 3, 16, 16) -> (batch, 10): convolutions in four groups between two whole ones."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    )


def custom(layer: Callable[[int, int], nn.Module]) -> nn.Module:
    """(batch, 3, 16, 16) -> (batch, 10): two convolutions, a custom layer, a linear head."""
    return nn.Sequential(
        *block(3, 16, nn.BatchNorm2d),
        nn.MaxPool2d(4),
        *block(16, 16, nn.BatchNorm2d),
        nn.Flatten(),
        layer(16 * 16, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def perceptron() -> nn.Module:
    """(batch, 12) -> (batch, 3)."""
    return nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 3))


def resnet18() -> nn.Module:
    """(batch, 3, 32, 32) -> (batch, 10)."""
    import torchvision

    model: nn.Module = torchvision.models.resnet18(num_classes=10)
    return model


def mobilenet_v2() -> nn.Module:
    """(batch, 3, 32, 32) -> (batch, 10)."""
    import torchvision

    model: nn.Module = torchvision.models.mobilenet_v2(num_classes=10)
    return model


class Encoder(nn.Module):
    """(batch, length, 16) -> (batch, 10): an embedding, two encoder layers, the mean over the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, length, 16) -> (batch, 10)."""
        answer: torch.Tensor = self.head(self.encoder(self.embedding(x)).mean(1))
        return answer


def block(inputs: int, width: int, norm: Callable[[int], nn.Module]) -> list[nn.Module]:
    """A convolution, a norm and ReLU."""
    return [nn.Conv2d(inputs, width, 3, padding=1), norm(width), nn.ReLU()]
