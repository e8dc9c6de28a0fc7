"""Models that quantization-aware training meets, quantized and trained."""

import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE

INT8 = (LayerRule(("default",), quant_types=("weight", "output")),)


def stochastic_depth(mode):
    """torchvision's, which drops whole branches."""
    from torchvision.ops import StochasticDepth

    return StochasticDepth(0.3, mode)


class Norms(nn.Module):
    """Its BatchNorm layers have constants of their own, and variances that tell them apart."""

    def __init__(self, eps=0.5, momentum=0.02):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=eps, momentum=momentum)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=eps / 2, momentum=momentum / 2)
        self.alone = nn.BatchNorm2d(8, eps=eps, momentum=momentum, affine=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(self.alone(x).mean((2, 3)))


class Dropped(nn.Module):
    """Its second layer's output goes through something that is random in training."""

    def __init__(self, drop):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 8, 3, stride=3), drop, nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.conv(x))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.LSTM(64, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.rows(x.flatten(2))[0].mean(1))


class AsksForTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        found = self.head(x.mean((2, 3)))
        return found if self.training else functional.softmax(found, 1)


class Repeated(nn.Module):
    """A convolution, a BatchNorm or both are called twice."""

    def __init__(self, convolutions=1, norms=1):
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.convolutions = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(convolutions))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(norms))

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.norms[0](self.convolutions[0](x)))
        x = torch.relu(self.norms[-1](self.convolutions[-1](x)))
        return self.head(x.mean((2, 3)))


class Siamese(nn.Module):
    """Both halves of an image go through the same layers; torch.export cannot trace it in its strict mode."""

    def __init__(self):
        super().__init__()
        self.encoder, self.norm, self.head = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Linear(16, 5)

    def forward(self, x):
        halves = (torch.relu(self.norm(self.encoder(half))).mean((2, 3)) for half in x.chunk(2, -1))
        return self.head(torch.cat(list(halves), 1))


class TwoOutputs(AsksForTraining):
    def forward(self, x):
        found = self.head(x.mean((2, 3)))
        return (found, found) if self.training else found


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, 5, 3)

    def forward(self, x):
        return self.last(torch.relu(self.conv(x[:, None]))).mean((2, 3, 4))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.never = nn.Linear(3, 5)

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight.t()


def quantized(model, targets=INT8, **request):
    return compressor("qat").compress(model, CompressionRequest("qat", targets, IMAGE, **request))


def train(model, steps=4, seed=0, weight_decay=0.0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=weight_decay)
    model.train()
    for _ in range(steps):
        x = torch.randn(8, *IMAGE[0].shape[1:], generator=generator)
        loss = functional.cross_entropy(model(x), torch.randint(0, 5, (8,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def levels(model, x):
    """How much a rounding step of the inputs of every layer, up or down, changes the outputs: about so much."""
    layers = len(model._quantizers()) / 2
    step = float(x.max() - x.min()) / 255
    signs = [torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign() for seed in range(4)]
    return layers * max(float((model(x) - model(x + step * sign)).abs().max()) for sign in signs)
