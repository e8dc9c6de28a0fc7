"""Broken files of every kind, read: `python -m tests.benchmarks.fuzz_files [--examples 20000] [--flips 1500]`.

A whole experiment, a search space, a trial's parameters and an NNCF-style configuration are broken at random, as in
`tests/test_fuzzed_files.py`. Refused: one of our errors. Answered: read as if nothing was wrong, as a broken value may
still be one that is allowed. Of the journal and the settings, single bits are flipped as well: each is to be
refused, or to change no answer. Anything else that is raised, imported, run or written ends the program, with the file.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from autocompress.errors import AutoCompressError
from tests.fuzzed_files import attempt, broken, flipped, kinds, written


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


def flips(kind, folder, count, start):
    """How many flipped bits of a kind were refused, changed no answer, changed one."""
    counts, chosen = Counter(), random.Random(start)
    whole = (folder / kind.name).read_bytes()
    known = repr(kind.read(folder))
    for _ in range(count):
        answer = attempt(kind, folder, flipped(whole, chosen.randrange(8 * len(whole))))
        same = "same" if repr(answer) == known else "changed"
        counts["refused" if isinstance(answer, AutoCompressError) else same] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=20_000, help="of all kinds together")
    parser.add_argument("--flips", type=int, default=1500, help="of the journal and the settings together")
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
        print("\n| file | bits flipped | refused | no answer changed | an answer changed |\n|---|---|---|---|---|")
        for kind in found[:2]:
            counts = flips(kind, folder, asked.flips // 2, asked.seed)
            of = Path(kind.name).name, counts.total(), counts["refused"], counts["same"], counts["changed"]
            print(f"| {' | '.join(map(str, of))} |", flush=True)


if __name__ == "__main__":
    main()
