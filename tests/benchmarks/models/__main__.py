"""Compress every model of the catalog, each by each algorithm in a process of its own.

Rows are kept in a file as they are found; a run that was stopped goes on with the same command. The tables are printed
at the end.
"""

import argparse
import fnmatch
import functools
import importlib
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}

import torch

import autocompress  # noqa: F401 - lets torchvision be imported beside a CPU torch
from tests.benchmarks.models import catalog
from tests.benchmarks.models.measure import RATES, measured
from tests.benchmarks.models.rows import RESULTS, Job, Rows, fill, key
from tests.benchmarks.models.table import failures, page

ALGORITHMS = ("l2", "level", "qat", "taylorfo")
CHEAP = 12.0
"""Millions of parameters of the largest models that `taylorfo` ranks by gradients."""


def chosen(arguments):
    """Entries and algorithms, those of the smallest models first."""
    entries = catalog.entries()
    entries = [each for each in entries if arguments.groups is None or each.group in arguments.groups]
    for names, of in ((arguments.families, "family"), (arguments.models, "name")):
        entries = [
            each for each in entries if not names or any(fnmatch.fnmatch(getattr(each, of), name) for name in names)
        ]
    entries = [each for each in entries if each.size <= arguments.largest]
    if arguments.quick or arguments.smallest:
        entries = catalog.smallest(entries)
    for entry in sorted(entries, key=lambda each: each.size):
        for algorithm in arguments.algorithms:
            if algorithm != "taylorfo" or entry.size <= CHEAP:
                yield entry, algorithm


def parser():
    made = argparse.ArgumentParser(prog="python -m tests.benchmarks.models", description=__doc__)
    made.add_argument("--groups", nargs="+", choices=list(catalog.GROUPS))
    made.add_argument("--families", nargs="+", help="patterns such as resnet*")
    made.add_argument("--models", nargs="+", help="patterns such as resnet*")
    made.add_argument("--algorithms", nargs="+", default=ALGORITHMS)
    made.add_argument("--largest", type=float, default=1e9, help="millions of parameters of the largest model")
    made.add_argument("--smallest", action="store_true", help="of each family the smallest model only")
    made.add_argument(
        "--quick",
        action="store_true",
        help="10 minutes: the smallest model of each family, l2 at .5 without export, in build/models-quick.json",
    )
    made.add_argument("--minutes", type=float, help="start nothing after so many")
    made.add_argument("--again", action="store_true", help="make the chosen rows again")
    made.add_argument("--failed", action="store_true", help="make those of the chosen rows again that have a failure")
    made.add_argument("--print", action="store_true", help="run nothing")
    made.add_argument("--jobs", type=int, default=2)
    made.add_argument("--seconds", type=int, default=120, help="processor time of one step, such as one compression")
    made.add_argument("--gibibytes", type=float, default=10, help="memory of one process")
    made.add_argument("--results", type=Path)
    return made


def is_known(rows, entry, algorithm, rates, exports, failed):
    """Whether a row is there and has all that is to be measured, or fails and is not to be made again for that."""
    row = rows.rows.get(key(entry, algorithm))
    if row is None or (failed and failures(row)):
        return False
    found = row.get("rates", {})
    whole = "None" in found or {str(rate) for rate in rates} <= found.keys()
    return bool(failures(row)) or (whole and ("onnx" in row or not exports))


def run(arguments, rows):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wanted = list(chosen(arguments))
    for package in {catalog.GROUPS[entry.group][0] for entry, _ in wanted}:
        importlib.import_module(package)
    quick = arguments.quick
    rates, exports = RATES[:1] if quick else RATES, not quick
    wanted = [pair for pair in wanted if arguments.again or not is_known(rows, *pair, rates, exports, arguments.failed)]

    def start(entry, algorithm):
        work = functools.partial(measured, entry, algorithm, rates, exports)
        return Job(entry, algorithm, lambda report: work(report, arguments.seconds))

    minutes = arguments.minutes or (9.5 if quick else 1e6)
    until = time.monotonic() + 60 * minutes
    fill(rows, wanted, start, arguments.jobs, arguments.gibibytes, 8 * arguments.seconds, until, note)


def note(row):
    """A line for people who wait."""
    half = row.get("rates", {}).get("0.5") or row.get("rates", {}).get("None") or {}
    figures = " ".join(f"{name}={value}" for name, value in half.items())
    print(row["group"], row["model"], row["algorithm"], figures, *failures(row), sep=" | ", file=sys.stderr, flush=True)


def main():
    arguments = parser().parse_args()
    quick = Path("build/models-quick.json")
    if arguments.quick:
        quick.parent.mkdir(exist_ok=True)
        arguments.algorithms = arguments.algorithms if arguments.algorithms != ALGORITHMS else ("l2",)
        arguments.seconds = min(arguments.seconds, 60)
    rows = Rows(arguments.results or (quick if arguments.quick else RESULTS))
    if not arguments.print:
        run(arguments, rows)
    print(page(rows.rows))


if __name__ == "__main__":
    main()
