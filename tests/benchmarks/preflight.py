"""What a preflight takes: `python -m tests.benchmarks.preflight`. The bound: two evaluations, a training step, 2 s."""

import time

from autocompress.search_space import default_space
from autocompress.trial.tasks import measure_baseline
from examples.digits import DigitsModule
from tests.trial.preflight_modules import Right, accuracy, data

SPACE = default_space(["l2"])
SECONDS = (0.01, 0.1, 0.5, 0.9, 1.1, 3.0)
"""Of an evaluation."""


def slow(seconds):
    """A module whose evaluation takes so long, over ten batches."""

    def evaluate(model):
        for part in data()[1][0].split(24):
            model(part)
            time.sleep(seconds / 10)
        return accuracy(model)

    return type(f"Slow{seconds:g}", (Right,), {"evaluator": classmethod(lambda cls: evaluate)})


def main():
    print("| module | evaluation s | step s | preflight s | bound s | evaluations | direction |")
    print("|---|---|---|---|---|---|---|")
    for module in (DigitsModule, *map(slow, SECONDS)):
        found = measure_baseline(module, SPACE).preflight
        bound = 2 * found.evaluation_seconds + found.step_seconds + 2
        print(
            f"| {module.__name__} | {found.evaluation_seconds:.2f} | {found.step_seconds:.3f} | {found.seconds:.2f} | "
            f"{bound:.2f} | {len(found.accuracies)} | {'looked at' if found.damaged is not None else 'not'} |"
        )
        assert found.seconds <= bound, found


if __name__ == "__main__":
    main()
