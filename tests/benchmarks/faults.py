"""Faults at random moments of a search: `python -m tests.benchmarks.faults [--engines nni optuna] [--times 20]`.

A search by the command line is disturbed once, at a moment drawn at random from its length, and resumed until it ends.
Survived: it ends. Epochs trained twice: of trials that had finished before the fault. Answers changed: searches whose
records or best model are not those of the undisturbed one.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.launch import search_space
from tests.e2e.support import ROOT, free_port, processes_of, results, trained_epochs

MODULE = "tests/curve_modules.py:CountsEpochs"
TRIAL, MANAGER = "-m autocompress.trial ", "nni_node/main.js"
KINDS = {
    "launcher, kill -9": ("launcher", signal.SIGKILL),
    "launcher, SIGTERM": ("launcher", signal.SIGTERM),
    "launcher, Ctrl-C": ("launcher", signal.SIGINT),
    "trial, kill -9": (TRIAL, signal.SIGKILL),
    "NNI's manager, kill -9": (MANAGER, signal.SIGKILL),
}
ATTEMPTS = 6


class Search:
    """A search in a folder of its own."""

    def __init__(self, folder, engine):
        self.folder, self.directory, self.engine = folder, folder / "experiment", engine
        self.log = folder / "epochs.log"
        self.log.touch()
        (folder / "space.json").write_text(json.dumps(search_space("l2")))

    def start(self):
        """Begin it, or go on with it."""
        port = ["--port", str(free_port())]
        if self.directory.exists() and ExperimentDirectory(self.directory).exists():
            arguments = ["resume", str(self.directory), *port]
        else:
            space = str(self.folder / "space.json")
            arguments = ["run", MODULE, "--search-space", space, "--out", str(self.directory), *port]
            arguments += ["--engine", self.engine]
        with (self.folder / "output.txt").open("a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "autocompress.cli", *arguments],
                cwd=ROOT,
                env={**os.environ, "EPOCHS_LOG": str(self.log)},
                stdout=output,
                stderr=output,
            )

    def finish(self):
        """Resume it until it ends by itself; whether it does."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.start().wait(240) == 0:
                    return True
        return False

    def told(self):
        """Records without what a clock says or what was killed, and the best model's file."""
        result = CompressionResult(ExperimentDirectory(self.directory))
        records = [{**record.to_dict(), "seconds": 0} for record in result.records if record.state != "lost"]
        return records, (result.checkpoint / "weights.pt").read_bytes()

    def epochs(self):
        return trained_epochs(self.log) if self.log.stat().st_size else {}

    def clean(self):
        for process in processes_of(self.directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def disturbed(search, kind, delay, undisturbed):
    """What one fault did: survived, epochs trained twice, changed."""
    whom, number = KINDS[kind]
    launcher = search.start()
    time.sleep(delay)
    finished = {record.requested_rate: record.epochs for record in results(search.directory)}
    target = launcher if whom == "launcher" else next(processes_of(search.directory, whom), None)
    if target is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            target.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(240)
    survived = search.finish()
    again = sum(max(0, search.epochs().get(rate, 0) - epochs) for rate, epochs in finished.items())
    return survived, again, survived and search.told() != undisturbed


def tried(engine, kind, times, generator):
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = Search(Path(folder), engine)
        started = time.monotonic()
        quiet.start().wait(240)
        length, undisturbed = time.monotonic() - started, quiet.told()
    survived = retrained = changed = 0
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            search = Search(Path(folder), engine)
            try:
                alive, again, other = disturbed(search, kind, generator.uniform(0, length), undisturbed)
                if not alive or again or other:
                    print((Path(folder) / "output.txt").read_text(errors="replace")[-3000:], file=sys.stderr)
            finally:
                search.clean()
        survived, retrained, changed = survived + alive, retrained + again, changed + other
    print(f"| {engine} | {kind} | {times} | {survived} | {retrained} | {changed} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=["nni", "optuna"], choices=["nni", "optuna"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    print("| engine | fault | times | survived | epochs trained twice | answers changed |\n|---|---|--:|--:|--:|--:|")
    for engine in arguments.engines:
        for kind in arguments.kinds:
            if engine == "nni" or KINDS[kind][0] != MANAGER:
                tried(engine, kind, arguments.times, generator)


if __name__ == "__main__":
    main()
