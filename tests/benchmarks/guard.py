"""What comparing a cut with the uncompressed model costs: `python -m tests.benchmarks.guard [--rounds 15]`.

resnet18, 32x32 inputs, half of the filters, by the pruner that needs no data. Three kinds of cuts take turns in one
process: with the comparison, with no more than two forward passes that compare the shapes of outputs, and with nothing.
CPU seconds of the process, so that what else the machine does counts little, are medians.
"""

import argparse
import contextlib
import statistics
import time
from unittest.mock import patch

from autocompress.compression.model_state import output_shapes
from autocompress.compression.pruning.groups import remove
from tests.benchmarks.speed import MODULE, compressed


class Unguarded:
    """Compares nothing."""

    def __init__(self, model, inputs):
        self._model, self._inputs = model, inputs

    def mismatch(self, removed):
        pass

    def remove(self, removed):
        remove(self._model, removed)


class Shapes(Unguarded):
    """Runs the model twice, as for comparing no more than the shapes of outputs."""

    def mismatch(self, removed):
        output_shapes(self._model, self._inputs)
        output_shapes(self._model, self._inputs)


GUARDS = {"compared": None, "shapes compared": Shapes, "not compared": Unguarded}


def seconds(guard):
    verifier = "autocompress.compression.pruning.filters.CutVerifier"
    replaced = contextlib.nullcontext() if guard is None else patch(verifier, guard)
    with replaced:
        started = time.process_time()
        before = time.perf_counter()
        _, taken = compressed("l2")
        return (time.process_time() - started) * taken / (time.perf_counter() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    compressed("l2")  # the first use imports
    times = {name: [] for name in GUARDS}
    for _ in range(rounds):
        for name, guard in GUARDS.items():
            times[name].append(seconds(guard))
    found = {name: statistics.median(each) for name, each in times.items()}
    print(f"{MODULE.__name__}, {rounds} cuts each, CPU seconds, medians")
    print("| a cut | s | the comparison adds |\n|---|--:|--:|")
    for name, each in found.items():
        print(f"| {name} | {each:.3f} | {found['compared'] / each - 1:.0%} |")


if __name__ == "__main__":
    main()
