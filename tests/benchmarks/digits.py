"""The table of algorithms: `python -m tests.benchmarks.digits [--algorithms l2 qat l2_qat] [--seeds 3] [--each]`.

One full search on a real NNI experiment for each algorithm (a file of `search_spaces`) and seed, with all defaults; a
seed is one of data split, training and search. A row is the mean over the seeds; `--each` prints one row a seed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autocompress.errors import InfeasibleBudgetError
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

ROOT = Path(__file__).parents[2]
PRUNERS = ["level", "slim", "l1", "l2", "fpgm", "taylorfo", "apoz", "mean_activation"]
ALGORITHMS = [*PRUNERS, "qat", "l2_qat"]


def search(algorithm, seed, directory):
    """One search in a process of its own; its result and its wall time in seconds."""
    command = [sys.executable, "-m", "autocompress.cli", "run", "examples/digits.py:DigitsModule"]
    command += ["--search-space", str(ROOT / "search_spaces" / f"{algorithm}.json")]
    command += ["--seed", str(seed), "--out", str(directory)]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "DIGITS_SEED": str(seed)}, check=False, stdout=sys.stderr)
    return CompressionResult(ExperimentDirectory(directory)), time.monotonic() - started


def row(algorithm, seed, result, seconds):
    """What the search came to; only its cost where nothing was feasible."""
    cost = {
        "trials": len(result.records),
        "epochs": sum(record.epochs for record in result.records),
        "seconds": seconds,
    }
    baseline, head = result.baseline, {"algorithm": algorithm.replace("_qat", "+qat"), "seed": seed}
    try:
        best, verdict = result.best, result.verdict
    except InfeasibleBudgetError:
        return {**head, "feasible": 0, **cost}
    found = {
        "feasible": 1,
        "rate": best.achieved_rate,
        "parameters removed": best.parameters_removed,
        "MACs removed": best.macs_removed,
        "size removed": best.size_removed,
        "bytes": best.bytes,
        "accuracy": verdict.accuracy,
        "threshold": result.threshold,
        "uncompressed": baseline.accuracy,
        "hold-out": verdict.holdout_accuracy,
        "hold-out uncompressed": baseline.holdout_accuracy,
    }
    return {**head, **found, **cost}


def mean(rows):
    """One row for several seeds: means of all numbers, and how many of the seeds ended feasible."""
    names = [name for name in max(rows, key=len) if name not in ("algorithm", "seed", "feasible")]
    means = {name: statistics.mean(row[name] for row in rows if name in row) for name in names}
    feasible = f"{sum(row['feasible'] for row in rows)} of {len(rows)}"
    return {"algorithm": rows[0]["algorithm"], "feasible": feasible, **means}


def cell(name, value):
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else value
    if name.endswith("removed"):
        return f"{100 * value:.1f} %"
    return f"{value:,.0f}" if name in ("bytes", "seconds") else f"{value:.3g}" if value > 2 else f"{value:.4f}"


def table(rows):
    names = list(max(rows, key=len))
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for entry in rows:
        lines.append("| " + " | ".join(cell(name, entry[name]) if name in entry else "-" for name in names) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--algorithms", nargs="+", default=ALGORITHMS, help="names of files in search_spaces")
    parser.add_argument("--each", action="store_true", help="one row a seed")
    parser.add_argument("--json", action="store_true", help="all rows as JSON")
    arguments = parser.parse_args()
    rows = {algorithm: [] for algorithm in arguments.algorithms}
    with tempfile.TemporaryDirectory() as temporary:
        for algorithm in rows:
            for seed in range(arguments.seeds):
                found, seconds = search(algorithm, seed, Path(temporary, f"{algorithm}-{seed}"))
                rows[algorithm].append(row(algorithm, seed, found, seconds))
    each = [entry for entries in rows.values() for entry in entries]
    if arguments.json:
        print(json.dumps(each, indent=2))
    else:
        print(table(each if arguments.each else [mean(entries) for entries in rows.values()]))


if __name__ == "__main__":
    main()
