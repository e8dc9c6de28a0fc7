"""The in-process loop beside NNCF 2.19 on digits: `python -m tests.benchmarks.nncf_loop [--seeds 3] [--each]`.

The setting is the one NNCF was measured in: a CNN of about 72,600 weights, 1 % relative degradation, initial training
phase of 5 epochs, patience 3. A seed is one of training and search. "Outside" is the share of the wall time of `run`
that is not spent in the user's functions.
"""

import argparse
import gc
import statistics
import tempfile
import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from autocompress.nncf import (
    CompressionConfig,
    create_accuracy_aware_training_loop,
    create_compressed_model,
    register_default_init_args,
)

SPARSITY = {
    "algorithm": "magnitude_sparsity",
    "sparsity_init": 0.1,
    "params": {"schedule": "exponential", "sparsity_target": 0.5, "sparsity_target_epoch": 3},
}


def pruning(importance):
    return {
        "algorithm": "filter_pruning",
        "pruning_init": 0.1,
        "params": {
            "schedule": "baseline",
            "pruning_target": 0.3,
            "filter_importance": importance,
            "prune_first_conv": True,
        },
    }


ALGORITHMS = {
    "magnitude_sparsity": [SPARSITY],
    "magnitude_sparsity up to 0.9, validated first": [
        SPARSITY
    ],  # where NNCF ends, as its next step would be beyond 0.95
    "filter_pruning L2": [pruning("L2")],
    "filter_pruning geometric_median": [pruning("geometric_median")],
    "quantization + filter_pruning": [pruning("L2"), {"algorithm": "quantization"}],
}
ARGUMENTS = {
    "magnitude_sparsity up to 0.9, validated first": {
        "maximal_compression_rate": 0.9,
        "validate_before_training": True,
    }
}
NNCF = {  # measured: weights removed (sparsity: zeroed), epochs of the three seeds, accuracy in %
    "magnitude_sparsity": (0.889, (8, 8, 8), (99.11, 99.11, 97.78)),
    "magnitude_sparsity up to 0.9, validated first": (0.889, (8, 8, 8), (99.11, 99.11, 97.78)),
    "filter_pruning L2": (0.935, (15, 20, 17), (98.89, 98.22, 97.78)),
    "filter_pruning geometric_median": (0.935, (15, 18, 15), (98.89, 98.00, 98.44)),
    "quantization + filter_pruning": (0.935, (16, 19, 18), (98.89, 98.22, 97.78)),
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def data():
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    train, test = train_test_split(range(len(x)), test_size=0.25, random_state=0, stratify=y)
    return (x[train], y[train]), (x[test], y[test])


TRAIN, TEST = data()


class Clock:
    """Seconds in the user's functions."""

    seconds = 0.0

    def __call__(self, function):
        def timed(*arguments, **keywords):
            started = time.perf_counter()
            try:
                return function(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def train_epoch(controller, model, optimizer, **_):
    x, y = TRAIN
    controller.scheduler.epoch_step()
    model.train()
    for batch in torch.randperm(len(x)).split(64):
        controller.scheduler.step()
        optimizer.zero_grad()
        (nn.functional.cross_entropy(model(x[batch]), y[batch]) + controller.loss()).backward()
        optimizer.step()


class NoController:
    """Stands in while the model is trained without compression."""

    scheduler = type("Scheduler", (), {"epoch_step": lambda _: None, "step": lambda _: None})()

    def loss(self):
        return 0.0


@torch.no_grad()
def accuracy(model, **_):
    x, y = TEST
    return 100 * (model.eval()(x).argmax(1) == y).float().mean().item()


def weights(model):
    """Of convolutions and linear layers, as NNCF counts them."""
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


WEIGHTS = sum(weight.numel() for weight in weights(Net()))


def trained(seed):
    torch.manual_seed(seed)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    for epoch in range(12):
        optimizer.param_groups[0]["lr"] = 0.05 if epoch < 8 else 0.01
        train_epoch(NoController(), model, optimizer)
    return model


def search(name, seed, directory, model=None, **arguments):
    """One search: what it came to."""
    model = trained(seed) if model is None else model
    base, clock = accuracy(model), Clock()
    config = CompressionConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 1, 8, 8]},
            "accuracy_aware_training": {
                "mode": "adaptive_compression_level",
                "params": {
                    "maximal_relative_accuracy_degradation": 1.0,
                    "initial_training_phase_epochs": 5,
                    "patience_epochs": 3,
                },
            },
            "compression": ALGORITHMS[name],
        }
    )
    if "quantization" in name:
        config = register_default_init_args(config, TRAIN[0].split(256))
    controller, model = create_compressed_model(model, config)
    arguments = {**ARGUMENTS.get(name, {}), **arguments}
    loop = create_accuracy_aware_training_loop(config, controller, base, seed=seed, **arguments)

    def optimizers():
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4), None

    gc.collect()  # Python's full collection (0.2 s) comes once in a dozen searches, and would be charged to one of them
    started = time.perf_counter()
    loop.run(model, clock(train_epoch), clock(accuracy), clock(optimizers), log_dir=directory, preflight=False)
    seconds = time.perf_counter() - started
    loop.report()  # before anything else is timed
    found = loop.statistics
    return {
        "algorithm": name,
        "seed": seed,
        "rate": found.achieved_rate,
        "weights removed": 1 - sum(int(torch.count_nonzero(weight)) for weight in weights(model)) / WEIGHTS,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "accuracy": found.compressed_accuracy,
        "uncompressed": base,
        "epochs": found.epochs,
        "seconds": seconds,
        "outside": 1 - clock.seconds / seconds,
        "path": [(record.requested_rate, record.epochs, record.feasible) for record in loop.result.records],
    }


def table(rows):
    lines = [
        "| algorithm | weights removed | NNCF's | epochs | NNCF's | accuracy (%) | NNCF's | uncompressed (%) "
        "| parameters left | outside | seconds |",
        "|" + "---|" * 11,
    ]
    for name in dict.fromkeys(row["algorithm"] for row in rows):
        found = [row for row in rows if row["algorithm"] == name]
        mean = {key: statistics.mean(row[key] for row in found) for key in found[0] if key not in ("algorithm", "path")}
        removed, epochs, accuracies = NNCF[name]
        cells = [
            name,
            f"{mean['weights removed']:.3f}",
            f"{removed:.3f}",
            f"{mean['epochs']:.1f}",
            f"{statistics.mean(epochs):.1f}",
            f"{mean['accuracy']:.2f}",
            f"{statistics.mean(accuracies):.2f}",
            f"{mean['uncompressed']:.2f}",
            f"{mean['parameters']:,.0f}",
            f"{mean['outside']:.1%}",
            f"{mean['seconds']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--each", action="store_true", help="one line a seed, with the path of the search")
    parser.add_argument("--validate-before-training", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.algorithms:
            for seed in range(arguments.seeds):
                eager = {"validate_before_training": True} if arguments.validate_before_training else {}
                rows.append(search(name, seed, f"{directory}/{name}-{seed}", **eager))
                if arguments.each:
                    print(rows[-1])
        print(table(rows))


if __name__ == "__main__":
    main()
