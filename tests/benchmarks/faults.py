"""Faults at random moments of a search: `python -m tests.benchmarks.faults [--engines nni optuna] [--times 20]`.

Searches by the command line are disturbed again and again, at moments drawn at random from the time that they take
undisturbed, and resumed until they end. Survived: the search goes on to its end. Epochs trained twice: of trials that
had ended before the fault. Answers changed: searches whose records or best model are not those of the undisturbed one.
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.e2e.search import Search
from tests.e2e.support import processes_of, results

TRIAL, MANAGER = "-m autocompress.trial ", "nni_node/main.js"
KINDS = {
    "launcher, kill -9": ("launcher", signal.SIGKILL),
    "launcher, SIGTERM": ("launcher", signal.SIGTERM),
    "launcher, Ctrl-C": ("launcher", signal.SIGINT),
    "trial, kill -9": (TRIAL, signal.SIGKILL),
    "NNI's manager, kill -9": (MANAGER, signal.SIGKILL),
}
NOT_MORE_OFTEN = 4
"""Faults of one search: a trial that is killed three times at one rate counts as infeasible, rightly."""


def disturb(search, kind, delay):
    """One fault; whether there was anything to disturb, and the epochs trained at each rate that had ended by then."""
    whom, number = KINDS[kind]
    launcher = search.start()
    with contextlib.suppress(subprocess.TimeoutExpired):
        launcher.wait(delay)
    ended = {record.requested_rate for record in results(search.directory)}
    finished = {rate: count for rate, count in search.epochs().items() if rate in ended}
    target = launcher if whom == "launcher" else next(processes_of(search.directory, whom), None)
    hit = target is not None and launcher.poll() is None
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


def tried(engine, kind, times, generator):
    """A row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        quiet = Search(Path(folder), engine)
        started = time.monotonic()
        quiet.start().wait(240)
        length, undisturbed = time.monotonic() - started, quiet.told()
    faults = survived = retrained = changed = 0
    often = 1 if KINDS[kind][0] == TRIAL else NOT_MORE_OFTEN
    while faults < times:
        with tempfile.TemporaryDirectory() as folder:
            search = Search(Path(folder), engine)
            try:
                hits, alive, again = disturbed(search, kind, length, min(often, times - faults), generator)
                other = alive and search.told() != undisturbed
                if not alive or again or other:
                    print(search.printed()[-3000:], file=sys.stderr)
            finally:
                search.clean()
        faults, survived = faults + hits, survived + (hits if alive else 0)
        retrained, changed = retrained + again, changed + other
    print(f"| {engine} | {kind} | {faults} | {survived} | {retrained} | {changed} |", flush=True)


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
