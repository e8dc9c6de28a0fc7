"""What comparing a cut with the uncompressed model costs: `python -m tests.benchmarks.guard [--rounds 15]`.

resnet18, 32x32 inputs, half of the filters, by the pruner that needs no data. Cuts with and without the comparison take
turns in one process; CPU seconds of the process, so that what else the machine does counts little, are medians.
"""

import argparse
import statistics
import time
from unittest.mock import patch

from autocompress.compress.state import output_shapes
from tests.benchmarks.speed import MODULE, compressed


class Unguarded:
    """Runs the model twice, as for comparing no more than the shapes of outputs."""

    def __init__(self, model, inputs):
        self._model, self._inputs = model, inputs

    def disagreement(self, removed):
        output_shapes(self._model, self._inputs)
        output_shapes(self._model, self._inputs)


def seconds():
    started = time.process_time()
    before = time.perf_counter()
    _, taken = compressed("l2")
    return (time.process_time() - started) * taken / (time.perf_counter() - before)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    compressed("l2")  # the first use imports
    times = {"with": [], "without": []}
    for _ in range(rounds):
        times["with"].append(seconds())
        with patch("autocompress.compress.pruning.cutting.Guard", Unguarded):
            times["without"].append(seconds())
    guarded, bare = (statistics.median(times[name]) for name in ("with", "without"))
    print(f"{MODULE.__name__}, {rounds} cuts each, CPU seconds, medians")
    print("| | s |\n|---|--:|")
    print(f"| a cut, compared | {guarded:.3f} |\n| a cut, not compared | {bare:.3f} |")
    print(f"\nthe comparison takes {guarded / bare - 1:.0%} of a cut's time")


if __name__ == "__main__":
    main()
