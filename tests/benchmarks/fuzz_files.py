"""Broken files of every kind, read: `python -m tests.benchmarks.fuzz_files [--examples 20000] [--seed 0]`.

A whole experiment, a search space, a trial's parameters and an NNCF-style configuration are broken at random, as in
`tests/test_fuzzed_files.py`. Refused: one of our errors. Answered: read as if nothing was wrong, as a broken value may
still be one that is allowed. Anything else that is raised, imported, run or written ends the program, with the file.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from autocompress.errors import AutoCompressError
from tests.fuzzed_files import attempt, broken, kinds, written


def tried(kind, folder, examples, start):
    """How many broken files of a kind came to what."""
    counts = Counter()
    whole = (folder / kind.name).read_bytes()
    kind.read(folder)  # what is imported when it is needed

    @seed(start)
    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(st.data())
    def one(data):
        answer = attempt(kind, folder, data.draw(broken(whole, lines=kind.lines)))
        counts["refused" if isinstance(answer, AutoCompressError) else "answered"] += 1

    one()
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print("| file | read | refused | answered | other errors, imports, code run, files written | seconds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = kinds(written(folder))
        for number, kind in enumerate(found):
            examples = asked.examples // len(found) + (number < asked.examples % len(found))
            begin = time.monotonic()
            counts = tried(kind, folder, examples, asked.seed)
            of = Path(kind.name).name, counts.total(), counts["refused"], counts["answered"]
            print(f"| {' | '.join(map(str, of))} | 0 | {time.monotonic() - begin:.0f} |", flush=True)


if __name__ == "__main__":
    main()
