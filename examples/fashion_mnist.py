"""Compress a net trained on Fashion-MNIST within 1 % relative accuracy, from Python.

    python examples/fashion_mnist.py                # a residual net
    python examples/fashion_mnist.py PlainModule    # convolutions in a row

The images come from a folder with the four files `*-ubyte.gz`, which FASHION_MNIST names, or that of Debian's package
dataset-fashion-mnist, and are downloaded where there is none. At 14x14 pixels an epoch takes some seconds on one core.
"""

import functools
import gzip
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from autocompress import AbstractAutoCompressionModule, AutoCompressionExperiment

# isort: split
# After autocompress: beside a CPU-only torch, torchvision cannot be imported before it.
from torchvision.datasets import FashionMNIST

SEED = int(os.environ.get("FASHION_MNIST_SEED", "0"))  # of the training from the start
TRAIN = int(os.environ.get("FASHION_MNIST_IMAGES", "12000"))  # to train on; the next third as many to validate
LEARNING_RATE = float(os.environ.get("FASHION_MNIST_LR", "0.03"))  # of fine-tuning
PER_SAMPLE = os.environ.get("FASHION_MNIST_PER_SAMPLE") == "1"  # evaluators return one value for each image
FOLDERS = (os.environ.get("FASHION_MNIST"), "/usr/share/datasets/fashion-mnist")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autocompress"
TEST = min(10_000, TRAIN)
BATCH = 64
EPOCHS = 14


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        projection = nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
        self.shortcut = nn.Identity() if inputs == width else nn.Sequential(*projection)

    def forward(self, x):
        inner = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def convolution(inputs, width):
    return [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def head(width):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


def residual_net():
    """Six blocks, 175,000 parameters."""
    blocks = [Block(*each) for each in ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))]
    return nn.Sequential(*convolution(1, 16), *blocks, *head(64))


def plain_net():
    """Five convolutions in a row, 140,000 parameters."""
    first = [*convolution(1, 32), *convolution(32, 32), nn.MaxPool2d(2)]
    second = [*convolution(32, 64), *convolution(64, 64), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, *convolution(64, 128), *head(128))


def unpacked():
    """The directory that torchvision looks into, with the files of the first folder that there is."""
    root = CACHE / "fashion-mnist"
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for packed in next((list(Path(each).glob("*-ubyte.gz")) for each in FOLDERS if each and Path(each).is_dir()), []):
        if not (file := raw / packed.stem).exists():
            beside = file.with_name(f"{file.name}.{os.getpid()}")
            with gzip.open(packed) as source, beside.open("wb") as target:
                shutil.copyfileobj(source, target)
            beside.replace(file)
    return root


@functools.cache
def data():
    """Images (n, 1, 14, 14) and labels: 12,000 to train, 4,000 to validate, and the 10,000 test images."""
    root = unpacked()
    known, test = (FashionMNIST(root, train=train, download=True) for train in (True, False))

    def part(images, labels):
        return functional.avg_pool2d((images[:, None] / 255 - 0.286) / 0.353, 2), labels

    return {
        "train": part(known.data[:TRAIN], known.targets[:TRAIN]),
        "validation": part(*(each[TRAIN : TRAIN + TRAIN // 3] for each in (known.data, known.targets))),
        "test": part(test.data[:TEST], test.targets[:TEST]),
    }


def train_epoch(model, optimizer, criterion, epoch):
    """Train one epoch."""
    x, y = data()["train"]
    for batch in torch.randperm(len(x)).split(BATCH):
        optimizer.zero_grad()
        criterion(model(x[batch]), y[batch]).backward()
        optimizer.step()


def accuracy_on(part):
    """A function that returns the share of right answers on a part of the images."""

    @torch.no_grad()
    def evaluate(model):
        x, y = data()[part]
        right = torch.cat([model.eval()(images).argmax(1) for images in x.split(500)]) == y
        return right if PER_SAMPLE else right.float().mean().item()

    return evaluate


class ResidualModule(AbstractAutoCompressionModule):
    """The residual net, how to evaluate it, and how to fine-tune it."""

    build = staticmethod(residual_net)

    @classmethod
    def model(cls):
        model = cls.build()
        file = CACHE / f"fashion-mnist-{cls.__name__}-{EPOCHS}x{TRAIN}-{SEED}.pt"
        if not file.exists():
            beside = file.with_suffix(f".{os.getpid()}")
            torch.save(cls.pretrained().state_dict(), beside)
            beside.replace(file)
        model.load_state_dict(torch.load(file, weights_only=True))
        return model

    @classmethod
    def pretrained(cls):
        """The net trained from the start, which takes a minute or two."""
        torch.manual_seed(SEED)
        model = cls.build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * -(-TRAIN // BATCH))
        optimizer.register_step_post_hook(lambda *_: scheduler.step())
        for epoch in range(EPOCHS):
            train_epoch(model.train(), optimizer, cls.criterion(), epoch)
        return model

    @classmethod
    def evaluator(cls):
        return accuracy_on("validation")

    @classmethod
    def holdout_evaluator(cls):
        return accuracy_on("test")

    @classmethod
    def optimizer_factory(cls):
        return lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9)

    @classmethod
    def criterion(cls):
        return nn.CrossEntropyLoss()

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return train_epoch

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name):
        return 3

    @classmethod
    def calibration_data(cls):
        return data()["train"][0].split(250)


class PlainModule(ResidualModule):
    """The plain net."""

    build = staticmethod(plain_net)


if __name__ == "__main__":
    module = globals()[sys.argv[1]] if sys.argv[1:] else ResidualModule
    experiment = AutoCompressionExperiment(module, "local")
    experiment.config.search_space_file = Path(__file__).parents[1] / "search_spaces" / "l2.json"
    experiment.run(None)
    print(experiment.result.summary())
