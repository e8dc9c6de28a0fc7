"""Which importance ranks rightly: `python -m tests.benchmarks.fidelity [--seeds 3] [--fashion DIRECTORY]`.

Rank correlation (Spearman, mean over the couplings of a net) of each filter pruner's scores with the loss on training
data after removing each single channel and recalibrating BatchNorm; means over seeds of training. Small nets on
scikit-learn's digits. `--fashion` adds a residual net (widths 16-32-64, six blocks, 176,000 parameters, 5 epochs on
12,000 images at half their resolution, one seed) on Fashion-MNIST, whose files are in DIRECTORY (Debian's package
dataset-fashion-mnist: /usr/share/datasets/fashion-mnist).
"""

import argparse
import functools
import gzip
import statistics
from pathlib import Path

import torch

from autocompress.errors import CompressionError
from autocompress.testing.fidelity import Measured, mean_fidelity
from autocompress.testing.trained import TRAINED, TrainedModule, residual

ALGORITHMS = ("l1", "l2", "fpgm", "filter_pruning", "slim", "taylorfo", "mean_activation", "apoz")


def fashion(directory):
    """The residual net on Fashion-MNIST."""

    @functools.cache
    def read(name, offset):
        content = gzip.decompress(Path(directory, f"train-{name}-ubyte.gz").read_bytes())
        return torch.frombuffer(bytearray(content[offset:]), dtype=torch.uint8)

    class Fashion(TrainedModule):
        build = staticmethod(lambda: residual((16, 32, 64)))
        shape = (1, 14, 14)
        epochs = 5

        @classmethod
        def pictures(cls):
            images = read("images-idx3", 16).view(-1, 1, 28, 28)[:12_000] / 255
            halved = torch.nn.functional.avg_pool2d(images, 2)
            return (halved - 0.286) / 0.353, read("labels-idx1", 8)[:12_000].long()

        @classmethod
        def calibration_data(cls):
            inputs, targets = cls.pictures()
            return [(inputs[:1024], targets[:1024])]

    return Fashion


def correlations(module):
    """Of each algorithm on one trained net; None where it cannot be applied."""
    measured = Measured.of(module, module.loss)
    found = {}
    for algorithm in ALGORITHMS:
        try:
            found[algorithm] = mean_fidelity(measured, algorithm)
        except CompressionError:
            found[algorithm] = None
    return found


def row(name, module, seeds):
    runs = [correlations(type(module.__name__, (module,), {"seed": seed})) for seed in range(seeds)]
    cells = []
    for algorithm in ALGORITHMS:
        values = [run[algorithm] for run in runs]
        cells.append("-" if None in values else f"{statistics.mean(values):.2f}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nets", nargs="*", choices=TRAINED, default=list(TRAINED), metavar="NET")
    parser.add_argument("--fashion", metavar="DIRECTORY")
    arguments = parser.parse_args()
    print("| net | " + " | ".join(ALGORITHMS) + " |\n|---|" + "--:|" * len(ALGORITHMS))
    for name in arguments.nets:
        print(row(name, TRAINED[name], arguments.seeds), flush=True)
    if arguments.fashion:
        print(row("residual, Fashion-MNIST", fashion(arguments.fashion), 1), flush=True)


if __name__ == "__main__":
    main()
