"""Which importance ranks rightly: `python -m tests.benchmarks.fidelity [--seeds 8] [--fashion DIRECTORY]`.

Rank correlation (Spearman, mean over the couplings of a net) of each filter pruner's scores with the loss on training
data after removing each single channel and recalibrating BatchNorm: mean over seeds of training, and the minimum in
parentheses. Small nets on 640 of scikit-learn's digits; with `--fashion` the same nets on 1,280 images of Fashion-MNIST
at 8x8, and a larger residual net (widths 16-32-64, six blocks, 175,000 parameters) on 2,048 at 14x14. DIRECTORY has the
files, in Debian's package dataset-fashion-mnist /usr/share/datasets/fashion-mnist.
"""

import argparse
import functools
import gzip
import statistics
from pathlib import Path

import torch
from torch.nn import functional

from autocompress.errors import CompressionError
from autocompress.testing.fidelity import Measured, mean_fidelity
from tests.trained_nets import TRAINED, TrainedModule, residual

ALGORITHMS = ("l1", "l2", "fpgm", "filter_pruning", "slim", "taylorfo", "mean_activation", "apoz")


class LargerResidual(TrainedModule):
    """Six residual blocks, three widths; measured on half of its pictures, BatchNorm recalibrated on a quarter."""

    build = staticmethod(lambda: residual((16, 32, 64)))
    epochs = 8

    @classmethod
    def calibration_data(cls):
        return cls.data()[: len(cls.data()) // 4]

    @classmethod
    @torch.no_grad()
    def loss(cls, model):
        batches = cls.data()[: len(cls.data()) // 2]
        return statistics.mean(float(functional.cross_entropy(model.eval()(x), y)) for x, y in batches)


def fashion(directory):
    """The nets on Fashion-MNIST, by name."""
    small = {name: _on(module, functools.partial(_clothes, directory, 1280, 8)) for name, module in TRAINED.items()}
    return {**small, "larger residual": _on(LargerResidual, functools.partial(_clothes, directory, 2048, 14))}


def _on(module, pictures):
    """The same net on other pictures."""
    shape = tuple(pictures()[0].shape[1:])
    return type(module.__name__, (module,), {"pictures": staticmethod(pictures), "shape": shape})


@functools.cache
def _clothes(directory, count, size):
    """The first images of Fashion-MNIST at this size, and what they show."""
    images = _file(directory, "images-idx3", 16).view(-1, 1, 28, 28)[:count] / 255
    smaller = functional.adaptive_avg_pool2d((images - 0.286) / 0.353, size)
    return smaller, _file(directory, "labels-idx1", 8)[:count].long()


def _file(directory, name, header):
    content = gzip.decompress(Path(directory, f"train-{name}-ubyte.gz").read_bytes())
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8)


def correlations(module, algorithms):
    """Of each algorithm on one trained net; None where it cannot be applied."""
    measured = Measured.of(module, module.loss)
    found = {}
    for algorithm in algorithms:
        try:
            found[algorithm] = mean_fidelity(measured, algorithm)
        except CompressionError:
            found[algorithm] = None
    return found


def row(name, module, seeds, algorithms):
    runs = [correlations(type(module.__name__, (module,), {"seed": seed}), algorithms) for seed in range(seeds)]
    return f"| {name} | " + " | ".join(cell([run[algorithm] for run in runs]) for algorithm in algorithms) + " |"


def cell(values):
    """Mean and minimum."""
    if None in values:
        return "-"
    return f"{statistics.mean(values):.2f}" + (f" ({min(values):.2f})" if len(values) > 1 else "")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", nargs="*", metavar="NET", help="names of rows; all")
    parser.add_argument("--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS, metavar="NAME")
    parser.add_argument("--fashion", metavar="DIRECTORY", help="Fashion-MNIST instead of digits")
    arguments = parser.parse_args()
    nets = fashion(arguments.fashion) if arguments.fashion else TRAINED
    print("| net | " + " | ".join(arguments.algorithms) + " |\n|---|" + "--:|" * len(arguments.algorithms))
    for name in arguments.nets or nets:
        print(row(name, nets[name], arguments.seeds, arguments.algorithms), flush=True)


if __name__ == "__main__":
    main()
