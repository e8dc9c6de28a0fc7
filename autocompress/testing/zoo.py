"""Small models of various kinds, each with a module that trains it on generated data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Optimizer

from autocompress.compression.layers import register_module
from autocompress.compression.module import AbstractAutoCompressionModule, Criterion, Evaluator, ModuleClass, Trainer


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


@register_module()
class Projection(nn.Module):
    """A linear map that is not one of PyTorch's layers.

    Args:
        inputs: features in.
        outputs: features out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, inputs) -> (batch, outputs)."""
        return functional.linear(x, self.weight)


class ZooModule(AbstractAutoCompressionModule):
    """A model with fixed random weights, and batches of noise to train and evaluate it on.

    Attributes:
        build: makes the model.
        shape: of one input.
        outputs: classes, or values of a regression.
        batches: batches of four in an epoch.
    """

    build: ClassVar[Callable[[], nn.Module]]
    shape: ClassVar[tuple[int, ...]] = (3, 16, 16)
    outputs: ClassVar[int] = 10
    batches: ClassVar[int] = 2

    @classmethod
    def model(cls) -> nn.Module:
        """With fixed weights, and BatchNorm statistics of the data."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = cls.build()
            with torch.no_grad():
                for x, _ in cls.data():
                    model.train()(x)
        return model.eval()

    @classmethod
    def data(cls) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of inputs and targets."""
        generator = torch.Generator().manual_seed(1)
        inputs = [torch.randn(4, *cls.shape, generator=generator) for _ in range(cls.batches)]
        return [(x, torch.randint(0, cls.outputs, (4,), generator=generator)) for x in inputs]

    @classmethod
    def evaluator(cls) -> Evaluator:
        """Share of correct classes."""

        @torch.no_grad()
        def accuracy(model: nn.Module) -> float:
            model.eval()
            right = [(model(x).argmax(1) == y).float().mean() for x, y in cls.data()]
            return float(torch.stack(right).mean())

        return accuracy

    @classmethod
    def optimizer_factory(cls) -> Callable[[Iterable[Any]], Optimizer]:
        """SGD with momentum and weight decay, which must not change masked weights."""
        return lambda parameters: SGD(parameters, lr=0.001, momentum=0.9, weight_decay=1e-4)

    @classmethod
    def criterion(cls) -> Criterion:
        """Cross-entropy."""
        return functional.cross_entropy

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name: str) -> Trainer:  # noqa: ARG003
        """One epoch."""

        def train(model: nn.Module, optimizer: Optimizer, criterion: Criterion, epoch: int) -> None:  # noqa: ARG001
            for x, y in cls.data():
                optimizer.zero_grad()
                criterion(model(x), y).backward()
                optimizer.step()

        return train

    @classmethod
    def calibration_data(cls) -> Iterable[Any]:
        """The batches."""
        return cls.data()

    @classmethod
    def example_inputs(cls) -> torch.Tensor:
        """One sample."""
        return cls.data()[0][0][:1]


def _module(name: str, build: Callable[[], nn.Module], shape: tuple[int, ...] = ZooModule.shape) -> type[ZooModule]:
    """The module of a net."""
    return type(name, (ZooModule,), {"__module__": __name__, "build": staticmethod(build), "shape": shape})


PlainCnn = _module("PlainCnn", lambda: cnn(nn.BatchNorm2d))
NoNormCnn = _module("NoNormCnn", lambda: cnn(nn.Identity))
ResNet18 = _module("ResNet18", resnet18, (3, 32, 32))
MobileNetV2 = _module("MobileNetV2", mobilenet_v2, (3, 32, 32))
VggBn = _module("VggBn", vgg_bn)
Transformer = _module("Transformer", Encoder, (6, 16))
GroupedCnn = _module("GroupedCnn", grouped_cnn)
CustomLayer = _module("CustomLayer", lambda: custom(Projection))


class Regression(ZooModule):
    """A multilayer perceptron whose metric, the mean squared error, is better when lower."""

    build = staticmethod(perceptron)
    shape = (12,)
    outputs = 3
    higher_is_better = False

    @classmethod
    def data(cls) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs and the values to predict from them."""
        return [(x, torch.stack([x.sum(1), x[:, 0], x[:, 1] * 2], 1)) for x, _ in super().data()]

    @classmethod
    def criterion(cls) -> Criterion:
        """Mean squared error."""
        return functional.mse_loss

    @classmethod
    def evaluator(cls) -> Evaluator:
        """Mean squared error."""

        @torch.no_grad()
        def error(model: nn.Module) -> float:
            model.eval()
            return float(torch.stack([functional.mse_loss(model(x), y) for x, y in cls.data()]).mean())

        return error


ZOO: dict[str, ModuleClass] = {
    "cnn": PlainCnn,
    "cnn_no_norm": NoNormCnn,
    "resnet18": ResNet18,
    "mobilenet_v2": MobileNetV2,
    "vgg_bn": VggBn,
    "transformer": Transformer,
    "grouped_cnn": GroupedCnn,
    "custom_layer": CustomLayer,
    "regression": Regression,
}
"""All modules of the zoo by name."""
