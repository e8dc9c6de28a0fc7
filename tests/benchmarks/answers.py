"""What a search removes within a budget: `python -m tests.benchmarks.answers [--seeds 3] [--jobs 2] [--out FILE.json]`.

Whole searches on nets trained on Fashion-MNIST (`examples/fashion_mnist.py`), 1 % relative budget, pruner `l2`; a seed
is that of the search, which fine-tunes the same trained net. A configuration is parts joined by ` + `: those of
`PARTS`, and settings as `name=value`. With `--peers` other libraries search by the same rule, too (`peers.py`;
`pip install "autocompress[bench]"`); by their names there, with or without ` + distillation`, they are configurations.
Rows are added to the file as they are found; what is in it is not run again. `--plot FILE.png` draws the share removed
against epochs.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from autocompress.compression.measure import parameters
from autocompress.compression.module import evaluate, example_inputs, fresh_model
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import InfeasibleBudgetError
from autocompress.settings import AccuracyAwareSettings
from tests.benchmarks import answer_tables as tables
from tests.benchmarks import peers
from tests.benchmarks.answer_configurations import CONFIGURATIONS, Configuration, known
from tests.benchmarks.speed import in_turns, training_iteration

ROOT = Path(__file__).parents[2]
NETS = {"residual": "ResidualModule", "plain": "PlainModule"}
BATCH = 64
TYPICAL_EPOCHS = 20
"""Of a search, in uncompressed ones."""


def reference_of(net):
    return ModuleReference.parse(f"{ROOT / 'examples' / 'fashion_mnist.py'}:{NETS[net]}")


def epoch_seconds(module, steps=30):
    """Seconds of an epoch of the uncompressed net on this process' threads, from some steps in batches of 64."""
    batches = list(module.calibration_data())
    images = batches[0][:BATCH]
    iterate = training_iteration(fresh_model(module), images, torch.zeros(len(images), dtype=torch.long))
    seconds = in_turns({"step": iterate}, steps)["step"]
    return seconds * sum(map(len, batches)) / len(images)


def search(task, directory):
    """One search in this process; its row."""
    configuration, reference = Configuration.named(task["configuration"]), reference_of(task["net"])
    settings, space = configuration.checked_settings(task["seed"]), configuration.search_space(task["rate_of"])
    one = engine_named("local").create(SearchRequest(reference, space, directory, settings, objective="macs"))
    started, answer = time.monotonic(), None
    with contextlib.suppress(InfeasibleBudgetError):
        one.run()
    seconds, result, module = time.monotonic() - started, one.result, reference.load()
    with contextlib.suppress(InfeasibleBudgetError):
        best, verdict = result.best, result.verdict
        answer = {
            "macs_removed": best.macs_removed,
            "parameters_removed": best.parameters_removed,
            "latency_removed": latency_removed(result.load_model(), module),
            "accuracy": verdict.accuracy,
            "test_accuracy": verdict.holdout_accuracy,
        }
    return tables.row(
        uncompressed=result.baseline.accuracy,
        test=result.baseline.holdout_accuracy,
        budget=settings.budget,
        answer=answer,
        trials=[
            (each.requested_rate, each.epochs, each.accuracy, each.macs_removed, each.feasible)
            for each in result.records
        ],
        seconds=seconds,
        epoch_seconds=epoch_seconds(module),
        probe_seconds=sum(each.seconds for each in getattr(result.baseline, "sensitivities", ())),
    )


def peer_search(task):
    """One search with a peer in this process; its row."""
    module, budget = reference_of(task["net"]).load(), AccuracyAwareSettings().budget
    started = time.monotonic()
    trials, best, probe_seconds = peers.search(module, task["configuration"], task["seed"])
    seconds, original, answer = time.monotonic() - started, fresh_model(module), None
    if best is not None:
        answer = {
            "macs_removed": best.macs_removed,
            "parameters_removed": 1 - parameters(best.model) / parameters(original),
            "latency_removed": latency_removed(best.model, module),
            "accuracy": best.accuracy,
            "test_accuracy": evaluate(module.holdout_evaluator(), best.model),
        }
    return tables.row(
        uncompressed=evaluate(module.evaluator(), original),
        test=evaluate(module.holdout_evaluator(), original),
        budget=budget,
        answer=answer,
        trials=[(each.rate, each.epochs, each.accuracy, each.macs_removed, each.feasible) for each in trials],
        seconds=seconds,
        epoch_seconds=epoch_seconds(module),
        probe_seconds=probe_seconds,
    )


def latency_removed(model, module):
    """Share of the uncompressed net's time in onnxruntime that is saved: a batch of 32, one thread, in turns."""
    import onnxruntime

    from autocompress.formats.export import export

    original, images = fresh_model(module).eval(), torch.randn(32, *example_inputs(module)[0].shape[1:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for name, each in (("before", original), ("after", model.eval())):
            export(each, Path(folder, f"{name}.onnx"), (images,))
            sessions[name] = onnxruntime.InferenceSession(
                str(Path(folder, f"{name}.onnx")), options, providers=["CPUExecutionProvider"]
            )
        feed = {sessions["before"].get_inputs()[0].name: images.numpy()}
        median = in_turns({name: lambda each=each: each.run(None, feed) for name, each in sessions.items()}, 60)
    return 1 - median["after"] / median["before"]


def task_of(net, name, rate_of, seed):
    """A search that is to be run; with all its settings, so that it is another one where defaults have changed."""
    settings = Configuration.named(name).checked_settings(seed).to_dict()
    return {"net": net, "configuration": name, "rate_of": rate_of, "seed": seed, "settings": settings}


class Rows:
    """The rows in a file, which is written anew after each; without a file they are only kept."""

    def __init__(self, file=None):
        self.file, self._lock = file, threading.Lock()
        self.rows = json.loads(file.read_text()) if file is not None and file.exists() else []

    def of(self, task):
        """The row of a task, if it is there."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in task.items())][:1]

    def add(self, row):
        with self._lock:
            self.rows.append(row)
            if self.file is not None:
                beside = self.file.with_name(f"{self.file.name}.{os.getpid()}")
                beside.write_text(json.dumps(self.rows, indent=1))
                beside.replace(self.file)


def run(task, rows, directory):
    """A search in a process of its own; a line on the error stream says what came of it."""
    own = Configuration.named(task["configuration"]).environment
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    label = " ".join(str(task[name]) for name in (*tables.GROUP, "seed"))
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(directory or temporary, label.replace(" ", "_").replace("/", "_"))
        command = [sys.executable, "-m", "tests.benchmarks.answers", "--one", json.dumps(task), str(place)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{label}: failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr, flush=True)
        return
    row = json.loads(done.stdout.splitlines()[-1])
    rows.add(row)
    told = f"{row['macs_removed']:.1%} of the MACs in {row['epochs']:.1f} epochs, {row['seconds']:.0f} s"
    print(f"{label}: {told}", file=sys.stderr, flush=True)


def estimate(tasks, jobs):
    """Train what is not yet trained, and print how long the searches may take."""
    torch.set_num_threads(1)
    seconds = 0.0
    for net in dict.fromkeys(task["net"] for task in tasks):
        epoch = epoch_seconds(reference_of(net).load())
        number = sum(task["net"] == net for task in tasks)
        seconds += number * TYPICAL_EPOCHS * epoch
        print(f"{net}: an uncompressed epoch takes {epoch:.1f} s, {number} searches", file=sys.stderr)
    print(f"about {seconds / jobs / 60:.0f} min, {jobs} at a time", file=sys.stderr, flush=True)


def options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--nets", nargs="+", choices=NETS, default=list(NETS))
    add(
        "--configurations",
        nargs="*",
        default=CONFIGURATIONS,
        metavar="NAME",
        help="see PARTS; by default the usual ones",
    )
    add("--peers", action="store_true", help="other libraries too")
    add("--rate-of", nargs="+", choices=("macs", "filters", "parameters"), default=["macs"], help="what a rate is of")
    add("--seeds", type=int, default=3)
    add("--jobs", type=int, default=1, help="searches at a time, of one thread each")
    add("--each", action="store_true", help="one row a seed")
    add("--out", type=Path, metavar="FILE.json", help="rows found before and now")
    add("--directory", type=Path, metavar="DIR", help="keeps the experiments")
    add("--plot", type=Path, metavar="FILE.png", help="share removed against epochs; one file for each net")
    add("--one", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    given = options()
    if given.one:
        torch.set_num_threads(1)
        task = json.loads(given.one[0])
        peer = Configuration.named(task["configuration"]).peer
        found = peer_search(task) if peer else search(task, Path(given.one[1]))
        print(json.dumps({**task, **found}))
        return
    rows = Rows(given.out)
    names = [*given.configurations, *(peers.PEERS if given.peers else ())]
    kinds = [(rate_of, name) for rate_of in given.rate_of for name in known(names, rate_of)]
    tasks = [
        task_of(net, name, rate_of, seed)
        for seed in range(given.seeds)
        for net in given.nets
        for rate_of, name in kinds
    ]
    open_ones = [task for task in tasks if not rows.of(task)]
    if open_ones:
        estimate(open_ones, given.jobs)
    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(lambda task: run(task, rows, given.directory), open_ones))
    wanted = [row for task in tasks for row in rows.of(task)]
    print(tables.markdown(wanted, each=given.each))
    if given.plot:
        tables.plot(wanted, given.plot)


if __name__ == "__main__":
    main()
