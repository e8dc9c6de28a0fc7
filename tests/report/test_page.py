"""Our own pages in a real browser."""

import dataclasses

import pytest

from autocompress.report import write_report
from autocompress.store import ExperimentDirectory, Ledger
from tests.e2e.browser import DESKTOP, PHONE, looking
from tests.written import plan, record

pytestmark = pytest.mark.slow
ALGORITHMS = ("l1", "l2", "fpgm", "l2+qat")


def written(path, trials):
    """An experiment with so many trials, as a search by a built-in tuner leaves it."""
    directory = ExperimentDirectory(path)
    directory.create()
    directory.write_settings(plan(tuner="TPE").to_dict())
    ledger = Ledger(directory)
    for number in range(trials):
        rate = (number * 37 % 100) / 100
        entry = record(f"key{number}", rate, feasible=rate < 0.6)
        accuracy = entry.accuracy + (number % 7) / 1000
        ledger.add(dataclasses.replace(entry, algorithm=ALGORITHMS[number % 4], accuracy=accuracy))
        for epoch in range(1, 11):
            directory.trial(entry.key).append_epoch({"epoch": epoch, "accuracy": accuracy - 0.1 / epoch})
    return directory


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write_report(written(tmp_path_factory.mktemp("report") / "experiment", 500))


def test_the_report_of_500_trials_is_light(report):
    assert report.stat().st_size < 5_000_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_the_report_opens_alone_and_fits(report, width, scheme):
    with looking(report, width, scheme) as look:
        look.keep(f"report-{width}-{scheme}")
        assert look.complaints == []
        assert look.hosts == {""}, "nothing is asked of anybody"
        assert look.width() <= width
        assert look.page.locator("#trials tbody tr").count() == 500
        assert look.page.locator("figure svg").count() == 4
        ground, ink = look.page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('figure svg .text, figure svg text')).fill]"
        )
        assert (ground == "rgb(18, 22, 28)") == (scheme == "dark")
        assert ink != ground


def test_the_table_can_be_sorted(report):
    with looking(report) as look:

        def rates():
            cells = look.page.locator("#trials tbody tr td:nth-child(3)").all_inner_texts()
            return [float(cell) for cell in cells]

        before = rates()
        head = look.page.get_by_role("button", name="rate", exact=True)
        head.click()
        assert rates() == sorted(before)
        head.click()
        assert rates() == sorted(before, reverse=True)
        assert look.page.locator("th[aria-sort=descending]").inner_text().startswith("rate")


def test_of_very_many_trials_the_best_are_in_the_table(tmp_path):
    report = write_report(written(tmp_path / "experiment", 1500))
    assert report.stat().st_size < 3_000_000
    with looking(report) as look:
        assert look.page.locator("#trials tbody tr").count() == 1000
        look.page.get_by_text("Of 1,500 trials these are the 1,000 of the highest scores").wait_for()
        assert look.page.locator("#trials tbody tr.best").count() == 1
        look.keep("report-many")
