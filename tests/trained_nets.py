"""Nets trained on scikit-learn's digits, the same each time."""

import copy
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from autocompress.testing.zoo import ZooModule, block


class Residual(nn.Module):
    """Two convolutions with BatchNorm beside a shortcut; not linear after the sum."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        same = stride == 1 and inputs == width
        projection = (nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut = nn.Identity() if same else nn.Sequential(*projection)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, inputs, height, width)."""
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def residual(widths: tuple[int, ...] = (12, 24), blocks: int = 2) -> nn.Module:
    """(batch, 1, height, width) -> (batch, 10): stages of blocks, each but the first halving the size."""
    layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    inputs = widths[0]
    for stage, width in enumerate(widths):
        for index in range(blocks):
            layers.append(Residual(inputs, width, 2 if stage and not index else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def plain(norm: Callable[[int], nn.Module]) -> nn.Module:
    """(batch, 1, 8, 8) -> (batch, 10): three convolutions and two linear layers."""
    return nn.Sequential(
        *block(1, 16, norm),
        *block(16, 24, norm),
        nn.MaxPool2d(2),
        *block(24, 24, norm),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def depthwise() -> nn.Module:
    """(batch, 1, 8, 8) -> (batch, 10): alternating depthwise and pointwise convolutions, ReLU6 after each."""

    def unit(inputs: int, width: int, stride: int) -> list[nn.Module]:
        spatial = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, width, 1, bias=False)
        return [spatial, nn.BatchNorm2d(inputs), nn.ReLU6(), pointwise, nn.BatchNorm2d(width), nn.ReLU6()]

    stem = [nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    units = [*unit(16, 32, 1), *unit(32, 32, 2), *unit(32, 48, 2)]
    return nn.Sequential(*stem, *units, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))


def perceptron() -> nn.Module:
    """(batch, 1, 8, 8) -> (batch, 10)."""
    layers = (nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    return nn.Sequential(nn.Flatten(), *layers)


class Rows(nn.Module):
    """(batch, 1, 8, 8) -> (batch, 10): an encoder whose tokens are the rows of the picture; GELU between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.places = nn.Linear(8, 32), nn.Parameter(torch.randn(8, 32) * 0.1)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 1, 8, 8) -> (batch, 10)."""
        answer: torch.Tensor = self.head(self.encoder(self.embedding(x.squeeze(1)) + self.places).mean(1))
        return answer


class TrainedModule(ZooModule):
    """A net trained on 640 digits, which are also its evaluation data.

    Attributes:
        seed: of the weights and of the order of the batches.
        epochs: of training.
    """

    shape = (1, 8, 8)
    seed: ClassVar[int] = 0
    epochs: ClassVar[int] = 12

    @classmethod
    def pictures(cls) -> tuple[torch.Tensor, torch.Tensor]:
        """All training data: inputs, and targets."""
        return _digits()

    @classmethod
    def data(cls) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of pictures and digits."""
        return _batches(cls.pictures(), 64)

    @classmethod
    def calibration_data(cls) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """All pictures, in one batch."""
        return [cls.pictures()]

    @classmethod
    def model(cls) -> nn.Module:
        """The trained net; the same one each time."""
        return copy.deepcopy(_trained(cls, cls.seed, cls.epochs))

    @classmethod
    @torch.no_grad()
    def loss(cls, model: nn.Module) -> float:
        """Mean cross-entropy over all pictures, in eval mode."""
        pictures, digits = cls.pictures()
        return float(functional.cross_entropy(model.eval()(pictures), digits))


_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "plain CNN": lambda: plain(nn.BatchNorm2d),
    "without BatchNorm": lambda: plain(nn.Identity),
    "residual": residual,
    "depthwise": depthwise,
    "MLP": perceptron,
    "transformer": Rows,
}
TRAINED: dict[str, type[TrainedModule]] = {
    name: type(f"Trained {name}", (TrainedModule,), {"__module__": __name__, "build": staticmethod(build)})
    for name, build in _BUILDERS.items()
}
"""The trained modules by kind of net."""


@functools.cache
def _trained(module: type[TrainedModule], seed: int, epochs: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = module.build().train()
        inputs, targets = module.pictures()
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, epochs * -(-len(inputs) // 64))
        for _ in range(epochs):
            order = torch.randperm(len(inputs))
            for x, y in _batches((inputs[order], targets[order]), 64):
                optimizer.zero_grad()
                loss: Any = functional.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                scheduler.step()
    return model.eval()


@functools.cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (640, 1, 8, 8) with mean about 0, and their digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 0.6
    return pictures[:640], torch.tensor(digits.target)[:640]


def _batches(pictures: tuple[torch.Tensor, torch.Tensor], size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs, targets = pictures
    starts = range(0, len(inputs), size)
    return [(inputs[start : start + size], targets[start : start + size]) for start in starts]
