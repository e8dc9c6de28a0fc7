"""A script as people write it: a net on random points, `train(model, loader, optimizer)` and `evaluate(model, loader)`.

`python -m tests.scripts DIRECTORY LOG` compresses the net; a line goes to LOG for each epoch that is trained.
"""

import functools
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(400, 8, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] > 0).long()
TRAINING = DataLoader(TensorDataset(X[:300], Y[:300]), batch_size=50, shuffle=True)
VALIDATION = DataLoader(TensorDataset(X[300:], Y[300:]), batch_size=50)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in loader) / len(loader.dataset)


@functools.cache
def _weights():
    model = net()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(8):
            train(model, TRAINING, torch.optim.Adam(model.parameters(), lr=0.01))
    return model.state_dict()


def trained():
    model = net()
    model.load_state_dict(_weights())
    return model


SETTINGS = {"preset": "nncf", "patience_epochs": 2, "initial_training_phase_epochs": 2}


def width(result, record):
    """Of the first layer of a trial's model, by which the log names it."""
    import autocompress

    return autocompress.load_compressed(result.directory.trial(record.key).checkpoint, net())[0].out_features


def main(directory, log):
    import autocompress

    def train_epoch(model, loader, optimizer, epoch):
        train(model, loader, optimizer)
        time.sleep(float(os.environ.get("SECONDS_PER_EPOCH", "0")))
        with Path(log).open("a") as file:
            file.write(f"{model[0].out_features} {epoch}\n")

    model = trained()
    print("begins", flush=True)
    return autocompress.compress(
        model,
        evaluate,
        train_epoch,
        torch.optim.Adam(model.parameters(), lr=0.003),
        train_loader=TRAINING,
        validation_loader=VALIDATION,
        max_drop="5%",
        settings={**SETTINGS, "preflight": False},
        directory=directory,
    )


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
