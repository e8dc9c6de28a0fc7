"""A right module, on which the wrong ones and the unusual ones of the preflight's tests are built."""

import functools

import torch
from torch import nn
from torch.nn import functional

from autocompress import AbstractAutoCompressionModule
from autocompress.search_space import default_space

CLASSES, FEATURES, SAMPLES = 3, 4, 240


@functools.lru_cache
def data():
    """Three blobs, to train and to validate on."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, FEATURES, generator=generator) * 3
    y = torch.arange(2 * SAMPLES) % CLASSES
    x = centres[y] + torch.randn(2 * SAMPLES, FEATURES, generator=generator)
    return (x[:SAMPLES], y[:SAMPLES]), (x[SAMPLES:], y[SAMPLES:])


class Net(nn.Module):
    def __init__(self, outputs=CLASSES, dropout=0.0):
        super().__init__()
        self.hidden, self.head = nn.Linear(FEATURES, 16), nn.Linear(16, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.hidden(x))))


@functools.lru_cache
def weights():
    """Of a net that is trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(20):
            train(model, optimizer, functional.cross_entropy, epoch)
    return model.state_dict()


def batches():
    x, y = data()[0]
    return list(zip(x.split(24), y.split(24), strict=True))


def train(model, optimizer, criterion, epoch):
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model):
    x, y = data()[1]
    return (model.eval()(x).argmax(1) == y).float().mean().item()


@torch.no_grad()
def loss(model):
    x, y = data()[1]
    return functional.cross_entropy(model.eval()(x), y).item()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05)


class Bare(AbstractAutoCompressionModule):
    """No more than must be written."""

    @classmethod
    def model(cls):
        model = Net()
        model.load_state_dict(weights())
        return model

    @classmethod
    def evaluator(cls):
        return accuracy


class Right(Bare):
    """Everything is as it should be."""

    @classmethod
    def optimizer_factory(cls):
        return sgd

    @classmethod
    def criterion(cls):
        return nn.CrossEntropyLoss()

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return train

    @classmethod
    def calibration_data(cls):
        return [x for x, _ in batches()]


class LossAsAccuracy(Right):
    """`higher_is_better` was forgotten."""

    @classmethod
    def evaluator(cls):
        return loss


SPACE = default_space(["l2"])


def module(name="Mine", *, base=Right, settings=None, **hooks):
    """A module with other hooks: each is what the hook returns, or a function of cls that is called."""
    attributes = {}
    for hook, value in hooks.items():
        attributes[hook] = value if isinstance(value, Raw) else _hook(value)
    attributes = {hook: value.value if isinstance(value, Raw) else value for hook, value in attributes.items()}
    return type(name, (base,), attributes)


class Raw:
    """Stands in the class as it is."""

    def __init__(self, value):
        self.value = value


class Made:
    """The hook makes its answer each time it is called."""

    def __init__(self, make):
        self.make = make


def _hook(value):
    def hook(cls, *_):
        return value.make() if isinstance(value, Made) else value

    return classmethod(hook)


TRAINER = "post_compress_finetuning_trainer"


SPACE_OF_LEVEL = default_space(["level"])
