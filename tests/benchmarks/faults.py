"""Faults at random moments of a search: `python -m tests.benchmarks.faults [--engines nni compress] [--times 20]`.

Searches by the command line, and by one call (`compress`), are disturbed again and again, at moments drawn at random
from the time that they take undisturbed, and resumed until they end. Survived: the search goes on to its end. Epochs
trained twice: of trials that had ended before the fault. Answers changed: searches whose records or best model are not
those of the undisturbed one. A trial that is stopped (SIGSTOP) is ended a minute after its limit, or after its
launcher's death: `--jobs` tries several faults at a time.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.search import Search
from tests.e2e.support import processes_of, results

LAUNCHER, TRIAL, MANAGER = "launcher", "-m autocompress.trial ", "nni_node/main.js"
FORKS = "a trial forks what outlives it"
STOPPED = "trial, SIGSTOP"
KINDS = {
    "launcher, kill -9": [(LAUNCHER, signal.SIGKILL)],
    "launcher, SIGTERM": [(LAUNCHER, signal.SIGTERM)],
    "launcher, Ctrl-C": [(LAUNCHER, signal.SIGINT)],
    "trial, kill -9": [(TRIAL, signal.SIGKILL)],
    STOPPED: [(TRIAL, signal.SIGSTOP)],
    "trial, SIGSTOP; launcher, kill -9": [(TRIAL, signal.SIGSTOP), (LAUNCHER, signal.SIGKILL)],
    "NNI's manager, kill -9": [(MANAGER, signal.SIGKILL)],
    FORKS: [],
}
"""What is done to whom, one after the other."""

NOT_MORE_OFTEN = 4
"""Faults of one search: a trial that is killed three times at one rate counts as infeasible, rightly."""

LIMIT = 30
"""`maximal_trial_seconds` of searches whose trials are stopped."""


def possible(engine, kind):
    """Whether an engine has what a kind of fault is done to."""
    whom = {target for target, _ in KINDS[kind]}
    if engine in ("local", "compress"):
        return whom == {LAUNCHER}
    return engine == "nni" or MANAGER not in whom


def disturb(search, kind, delay):
    """One fault; whether there was anything to disturb, and the epochs trained at each rate that had ended by then."""
    launcher = search.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(delay)
    ended = {record.requested_rate for record in results(search.directory)}
    finished = {rate: count for rate, count in search.epochs().items() if rate in ended}
    hit = launcher.poll() is None
    for whom, number in KINDS[kind]:
        target = launcher if whom == LAUNCHER else next(processes_of(search.directory, whom), None)
        hit = hit and target is not None
        if hit:
            with contextlib.suppress(psutil.NoSuchProcess):
                target.send_signal(number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(240)
    return hit, finished


def disturbed(search, kind, length, often, generator):
    """Disturb a search so often, unless it ends before: how often it was, whether it ended, epochs trained twice."""
    hits, finished = 0, {}
    while hits < often and not search.has_ended():
        hit, known = disturb(search, kind, generator.uniform(0, length))
        hits, finished = hits + hit, {**known, **finished}
    survived = search.finish()
    again = sum(max(0, search.epochs().get(rate, 0) - epochs) for rate, epochs in finished.items())
    return hits, survived, again


def forking(search):
    """Let a search end whose trials fork: how many did, whether it ended with them alive, and 0."""
    noted = search.folder / "forked"
    search.environment["FORKED"] = str(noted)
    survived = search.start().wait(240) == 0
    children = [int(line) for line in noted.read_text().split()]
    survived = survived and all(psutil.pid_exists(child) for child in children)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    return len(children), survived, 0


@dataclass
class Row:
    """A row of the table, while it is filled."""

    engine: str
    kind: str
    faults: int = 0
    survived: int = 0
    retrained: int = 0
    changed: int = 0

    @property
    def text(self):
        counts = (self.faults, self.survived, self.retrained, self.changed)
        return f"| {self.engine} | {self.kind} | {' | '.join(map(str, counts))} |"


def search_of(folder, row):
    settings = {"maximal_trial_seconds": LIMIT} if row.kind == STOPPED else {}
    return Search(Path(folder), row.engine, "Forks" if row.kind == FORKS else "CountsEpochs", **settings)


def one(row, undisturbed, length, often, seed):
    """Disturb one search, and add what came of it to the row."""
    with tempfile.TemporaryDirectory() as folder:
        search = search_of(folder, row)
        try:
            if row.kind == FORKS:
                hits, alive, again = forking(search)
            else:
                hits, alive, again = disturbed(search, row.kind, length, often, random.Random(seed))
            other = alive and search.told() != undisturbed
            if not alive or again or other:
                print(search.printed()[-3000:], file=sys.stderr)
        finally:
            search.clean()
    row.faults, row.survived = row.faults + hits, row.survived + (hits if alive else 0)
    row.retrained, row.changed = row.retrained + again, row.changed + other


def tried(row, times, jobs, generator):
    """Fill a row."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = search_of(folder, row)
        started = time.monotonic()
        quiet.start().wait(240)
        length, undisturbed = time.monotonic() - started, quiet.told()
    often = 1 if any(whom == TRIAL for whom, _ in KINDS[row.kind]) else NOT_MORE_OFTEN
    with ThreadPoolExecutor(jobs) as pool:
        while row.faults < times:
            left = times - row.faults
            several = [(min(often, left), generator.random()) for _ in range(min(jobs, -(-left // often)))]
            list(pool.map(lambda each: one(row, undisturbed, length, *each), several))
    print(row.text, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    engines = ["nni", "optuna", "local", "compress"]
    parser.add_argument("--engines", nargs="+", default=engines, choices=engines)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    print("| engine | fault | times | survived | epochs trained twice | answers changed |\n|---|---|--:|--:|--:|--:|")
    for engine in arguments.engines:
        for kind in arguments.kinds:
            if possible(engine, kind):
                tried(Row(engine, kind), arguments.times, arguments.jobs, generator)


if __name__ == "__main__":
    main()
