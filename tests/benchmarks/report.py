"""A big experiment's report and table, and its page in Chromium: `python -m tests.benchmarks.report [--trials 10000]`.

Seconds of processor time of `autocompress report` and `autocompress trials` without imports; the page's size; the
median of the time, over several openings, from asking for the page until it is laid out and its scripts have run.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from pathlib import Path

from autocompress.cli import show
from autocompress.report import write_report
from tests.e2e.browser import looking
from tests.report.test_page import written

_OPENINGS = 5


def timed(work):
    """What a function returns, and its seconds of processor time."""
    started = time.process_time()
    return work(), time.process_time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        directory = written(Path(folder) / "experiment", trials)
        write_report(written(Path(folder) / "small", 50))  # what is imported when it is needed
        report, writing = timed(lambda: write_report(directory))
        with contextlib.redirect_stdout(io.StringIO()):
            _, listing = timed(lambda: show.trials(directory.path))
        times = []
        for _ in range(_OPENINGS):
            with looking(report) as look:
                times.append(look.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        size = report.stat().st_size
    print(f"{trials} trials: report {writing:.1f} s, {size / 1e6:.2f} MB, trials {listing:.1f} s;")
    print(f"the page opens in {statistics.median(times) / 1000:.2f} s")


if __name__ == "__main__":
    main()
