"""The table of the README: `python -m tests.benchmarks.digits [--seeds 3] [--search-space search_spaces/l2.json]`.

Each row is one full search on a real NNI experiment, with all defaults and its own seed of data split and training.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory

ROOT = Path(__file__).parents[2]


def search(seed, space, directory):
    """One search in a process of its own; its result and its wall time in seconds."""
    command = [sys.executable, "-m", "autocompress.cli", "run", "examples/digits.py:DigitsModule"]
    command += ["--search-space", str(space), "--seed", str(seed), "--out", str(directory)]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "DIGITS_SEED": str(seed)}, check=True, stdout=sys.stderr)
    return CompressionResult(ExperimentDirectory(directory)), time.monotonic() - started


def row(seed, result, seconds):
    best, baseline, verdict = result.best, result.baseline, result.verdict
    return {
        "seed": seed,
        "rate": best.requested_rate,
        "parameters removed": best.parameters_removed,
        "MACs removed": best.macs_removed,
        "bytes": best.bytes,
        "accuracy": verdict.accuracy,
        "threshold": result.threshold,
        "uncompressed": baseline.accuracy,
        "hold-out": verdict.holdout_accuracy,
        "hold-out uncompressed": baseline.holdout_accuracy,
        "trials": len(result.records),
        "epochs": sum(record.epochs for record in result.records),
        "seconds": seconds,
    }


def table(rows):
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for entry in rows:
        cells = (f"{value:.4g}" if isinstance(value, float) else f"{value:,}" for value in entry.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--search-space", type=Path, default=ROOT / "search_spaces" / "l2.json")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        spaces = arguments.search_space
        rows = [row(seed, *search(seed, spaces, Path(temporary, str(seed)))) for seed in range(arguments.seeds)]
    print(json.dumps(rows, indent=2) if arguments.json else table(rows))
    removed = sum(entry["parameters removed"] for entry in rows) / len(rows)
    print(f"parameters removed on average: {removed:.1%}", file=sys.stderr)


if __name__ == "__main__":
    main()
