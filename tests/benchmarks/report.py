"""The report of a big experiment in Chromium: `python -m tests.benchmarks.report [--trials 500]`.

Median, over several openings, of the time from asking for the page until it is laid out and its scripts have run.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from autocompress.report import write_report
from tests.e2e.browser import looking
from tests.report.test_page import written

_OPENINGS = 5


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory() as folder:
        report = write_report(written(Path(folder) / "experiment", trials))
        times = []
        for _ in range(_OPENINGS):
            with looking(report) as look:
                times.append(look.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
        size = report.stat().st_size
    print(f"{trials} trials: opens in {statistics.median(times) / 1000:.2f} s, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
