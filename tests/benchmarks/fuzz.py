"""What changed checkpoints come to: `python -m tests.benchmarks.fuzz [--examples 20000] [--seed 0]`.

Each example is a valid checkpoint (a pruned model, an int8 model, one stored as codes) that is changed: its description
or its tensors or bytes with checksums that fit, as a stranger would, or anything by accident. It is loaded, and where a
model comes of it the model computes, under an audit hook.
"""

import argparse
import collections
import faulthandler
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.formats.fuzzing import WAYS, Fuzz
from tests.formats.strange import KINDS, peak_bytes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    faulthandler.enable()
    counts, wrong = collections.Counter(), []
    happened = dict.fromkeys(("code executions", "imports", "files touched", "other errors"), 0)
    with tempfile.TemporaryDirectory() as folder:
        fuzz = Fuzz(Path(folder))
        started, before = time.monotonic(), peak_bytes()
        for number in range(parsed.examples):
            random = Random(f"{parsed.seed} {number}")
            kind, way = random.choice(KINDS), random.choice(WAYS)
            found = fuzz.example(kind, way, random)
            counts[way, found.answer] += 1
            if number % 1000 == 0:
                print(f"{number:,}: {happened}", file=sys.stderr, flush=True)
            happened["imports"] += len(found.imports)
            happened["files touched"] += len(found.files)
            happened["code executions"] += len(found.executions)
            happened["other errors"] += found.error is not None
            if (
                found.error
                or found.imports
                or found.files
                or found.executions
                or (way == "accident" and found.answer == "other")
            ):
                wrong.append((number, kind, way, found))
        run, seconds, more = fuzz.canary.exists(), time.monotonic() - started, peak_bytes() - before
    print("| changed | refused | the same model | another model | anything else |\n|---|---|---|---|---|")
    for way in WAYS:
        cells = [counts[way, answer] for answer in ("refused", "same", "other", "raised")]
        print(f"| {way} | {' | '.join(f'{cell:,}' for cell in cells)} |")
    print(f"{parsed.examples:,} examples in {seconds:.0f} s; at most {more / 2**20:.0f} MiB more memory")
    happened["code executions"] += run
    print(", ".join(f"{what}: {count}" for what, count in happened.items()))
    print(f"another model by accident, or any of these: {len(wrong)} examples")
    for each in wrong[:20]:
        print(*each)


if __name__ == "__main__":
    main()
