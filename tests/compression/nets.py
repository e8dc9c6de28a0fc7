"""Small networks of the kinds that pruning must get right."""

from __future__ import annotations

import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(24) if norm else nn.Identity()
        self.hidden = nn.Linear(24 * 16, 20)
        self.head = nn.Linear(20, 5)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        return self.head(self.dropout(torch.relu(self.hidden(x.flatten(1)))))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a1 = nn.Conv2d(16, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.a2 = nn.Conv2d(12, 16, 3, padding=1)
        self.b1 = nn.Conv2d(16, 8, 1)
        self.b2 = nn.Conv2d(8, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.a2(torch.relu(self.norm(self.a1(x)))))
        x = torch.relu(x + self.b2(torch.relu(self.b1(x))))
        return self.head(x.mean((2, 3)))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 24)
        self.conv3 = nn.Conv2d(24, 10, 1)
        self.head = nn.Linear(10, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.grouped(torch.relu(self.conv1(x)))))
        return self.head(torch.relu(self.conv3(x)).mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, groups=3)
        self.conv1 = nn.Conv2d(3, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 20, 1)
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.depthwise(torch.relu(self.conv1(self.first(x)))))
        return self.head(torch.relu(self.point(x)).mean((2, 3)))


class Convolutions(nn.Module):
    """A network of one or three spatial dimensions that is flattened at its end."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]
        self.conv1 = conv(2, 8, 3, padding=1)
        self.up = transposed(8, 6, 2, stride=2)
        self.hidden = nn.Linear(6 * 8**dimensions, 12)
        self.head = nn.Linear(12, 5)
        self.shape = (1, 2, *([4] * dimensions))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.up(torch.relu(self.conv1(x))))
        return self.head(torch.relu(self.hidden(x.flatten(1))))


class Words(nn.Module):
    """An embedding whose weight is also the output layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 16)
        self.back = nn.Linear(16, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.back(torch.relu(self.hidden(self.embedding(x)))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 32)
        self.cells = kind(32, 16, layers, batch_first=True)
        self.hidden = nn.Linear(16, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.hidden(self.cells(self.inner(x))[0][:, -1])))


class TwoHeads(nn.Module):
    def __init__(self, features: bool = False) -> None:
        super().__init__()
        self.features = features
        self.stem = nn.Conv2d(3, 16, 3)
        self.conv = nn.Conv2d(16, 16, 3)
        self.boxes = nn.Conv2d(16, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.classes = nn.Conv2d(16, 7, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        found = {"boxes": torch.sigmoid(self.norm(self.boxes(x))), "classes": self.classes(x)}
        return {**found, "features": x} if self.features else found


IMAGE = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)),)
NETS = {
    "plain": Plain,
    "no_norm": lambda: Plain(norm=False),
    "residual": Residual,
    "grouped": Grouped,
    "depthwise": Depthwise,
}


def build(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETS[name]()


def outputs(model: nn.Module, inputs: tuple[torch.Tensor, ...] = IMAGE) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(*inputs)


def train(model: nn.Module, steps: int = 3) -> None:
    """A few real SGD steps on random images."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(6, 3, 8, 8)), torch.randint(0, 5, (6,)))
        loss.backward()
        optimizer.step()
