"""A complete module, to try the library with and to copy: a CNN on scikit-learn's digits.

`autocompress demo` compresses it; `autocompress run autocompress.demo:DigitsModule --algorithm qat` otherwise.
"""

import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from autocompress import AbstractAutoCompressionModule

SEED = int(os.environ.get("DIGITS_SEED", "0"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autocompress" / f"digits-{SEED}.pt"


class DigitsNet(nn.Module):
    """Three convolutions and two linear layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.conv3, self.bn3 = nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)
        self.fc1, self.fc2 = nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x):
        """Scores of the ten digits."""
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.max_pool2d(torch.relu(self.bn2(self.conv2(x))), 2)
        x = torch.max_pool2d(torch.relu(self.bn3(self.conv3(x))), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def splits():
    """Images and labels: 1,078 to train, 359 to validate, 360 held out."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train, rest = train_test_split(range(len(x)), test_size=0.4, random_state=SEED, stratify=y)
    validation, holdout = train_test_split(rest, test_size=0.5, random_state=SEED, stratify=y[rest])
    return {
        "train": (x[train], y[train]),
        "validation": (x[validation], y[validation]),
        "holdout": (x[holdout], y[holdout]),
    }


DATA = splits()


def train_epoch(model, optimizer, criterion, epoch):
    """Train one epoch."""
    x, y = DATA["train"]
    for batch in torch.randperm(len(x)).split(64):
        optimizer.zero_grad()
        criterion(model(x[batch]), y[batch]).backward()
        optimizer.step()


def accuracy_on(part):
    """A function that returns the share of right answers on one of the splits."""

    @torch.no_grad()
    def evaluate(model):
        x, y = DATA[part]
        return (model.eval()(x).argmax(1) == y).float().mean().item()

    return evaluate


class DigitsModule(AbstractAutoCompressionModule):
    """The trained network, how to evaluate it, and how to fine-tune it."""

    @classmethod
    def model(cls):
        """The network; trained at the first call, and kept in the user's cache directory."""
        model = DigitsNet()
        if not CACHE.exists():
            cls.pretrain(model)
        model.load_state_dict(torch.load(CACHE, weights_only=True))
        return model

    @classmethod
    def pretrain(cls, model):
        """Train the network from the start, which takes seconds, and save it."""
        torch.manual_seed(SEED)
        model.apply(lambda layer: layer.reset_parameters() if hasattr(layer, "reset_parameters") else None)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
        for epoch in range(12):
            optimizer.param_groups[0]["lr"] = 0.05 if epoch < 8 else 0.01
            train_epoch(model.train(), optimizer, cls.criterion(), epoch)
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        beside = CACHE.with_suffix(f".{os.getpid()}")
        torch.save(model.state_dict(), beside)
        beside.replace(CACHE)

    @classmethod
    def evaluator(cls):
        """The accuracy that is kept within the budget."""
        return accuracy_on("validation")

    @classmethod
    def holdout_evaluator(cls):
        """The accuracy on images that the search never uses."""
        return accuracy_on("holdout")

    @classmethod
    def optimizer_factory(cls):
        """The optimizer of fine-tuning."""
        return lambda parameters: torch.optim.SGD(parameters, lr=0.03, momentum=0.9, weight_decay=1e-4)

    @classmethod
    def criterion(cls):
        """The loss."""
        return nn.CrossEntropyLoss()

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        """Trains the compressed model for one epoch; the same for all algorithms."""
        return train_epoch

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name):
        """Epochs of fine-tuning under built-in tuners."""
        return 3

    @classmethod
    def calibration_data(cls):
        """Batches of training images, for algorithms that look at data."""
        return DATA["train"][0].split(256)
