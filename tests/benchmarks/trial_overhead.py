"""What a trial costs on NNI outside training, evaluation and imports: `python -m tests.benchmarks.trial_overhead`.

A module whose epochs and evaluations take no time is searched on a real NNI experiment. From the time between the first
and the last result, a trial's imports are taken off: the median of fresh interpreters that import what a trial does.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autocompress import AutoCompressionExperiment
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.support import free_port

IMPORTS = "import nni, torch, torch_pruning, torch._dynamo, torch.utils.flop_counter, autocompress.trial.run"


def import_seconds(times=5):
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def seconds_per_trial(directory):
    experiment = AutoCompressionExperiment(curve_modules.Flat, "local", directory=directory)
    experiment.config.search_space = search_space("l2")
    experiment.config.tuner.class_args = {"initial_compression_rate": 0.1}
    experiment.run(free_port())
    times = sorted(path.stat().st_mtime for path in Path(directory).glob("trials/*/record.json"))
    experiment.stop()
    return (times[-1] - times[0]) / (len(times) - 1), len(times)


def main():
    imports = import_seconds()
    with tempfile.TemporaryDirectory() as temporary:
        trial, number = seconds_per_trial(Path(temporary, "experiment"))
    print(f"a trial {trial:.2f} s (mean of {number}), its imports {imports:.2f} s, the rest {trial - imports:.2f} s")


if __name__ == "__main__":
    main()
