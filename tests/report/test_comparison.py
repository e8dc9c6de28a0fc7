"""Figures of a comparison, computed by hand beside."""

import dataclasses

import pytest

from autocompress.report.comparison import Comparison, Point, SearchOutcome, Spread, outcome
from autocompress.report.data import read_report_data
from autocompress.report.page import cells, comparison_headline, comparison_page, write_comparison
from autocompress.store import Ledger
from tests.report.test_files import rows
from tests.written import record


def search(tuner, seed, *path, **fields):
    points = tuple(Point(number, epochs, best) for number, (epochs, best) in enumerate(path, 1))
    known = {"best_rate": points[-1].best, "trials": len(points), "epochs": points[-1].epochs} if points else {}
    return SearchOutcome(tuner, seed, f"{tuner}/{seed}", **{**known, "path": points, **fields})


def comparison(*outcomes):
    return Comparison("Cliff", "rate", 0.891, 0.9, 20, 0.025, "nni-tuner", {"python": "3.11"}, outcomes)


def test_a_search_is_what_its_records_say(begun):
    ledger = Ledger(begun)
    for key, rate, feasible in (("a", 0.3, True), ("b", 0.7, False), ("c", 0.5, True), ("d", 0.4, True)):
        ledger.add(record(key, rate, feasible=feasible))
    ledger.add(
        dataclasses.replace(record("e", 0.6, feasible=False), state="failed", accuracy=None, error="x", epochs=0)
    )
    found = outcome(read_report_data(begun), "tpe", "tpe/0", {"a": 0.872, "c": 0.87, "d": 0.872})
    assert (found.best_rate, found.requested_rate, found.feasible) == (0.5, 0.5, 3)
    assert found.false_feasible == 1, "the same budget on hold-out data tolerates 0.8712"
    assert (found.trials, found.epochs, found.seconds) == (5, 12, 7.5)
    assert [(point.epochs, point.best) for point in found.path] == [(3, 0.3), (6, 0.3), (9, 0.5), (12, 0.5), (12, 0.5)]
    assert found.reaches(0.5) == Point(3, 9, 0.5)
    assert found.reaches(0.51) is None


def test_a_search_that_found_nothing(begun):
    Ledger(begun).add(record("a", 0.3, feasible=False))
    found = outcome(read_report_data(begun), "tpe", "tpe/0", {})
    assert (found.best_rate, found.accuracy, found.feasible, found.false_feasible) == (None, None, 0, 0)
    assert found.path == (Point(1, 3, None),)


def test_medians_and_ranges_over_seeds():
    compared = comparison(
        search("slow", 0, (10, 0.5), (40, 0.79)),
        search("slow", 1, (10, 0.5), (50, 0.6)),
        search("quick", 0, (2, 0.5), (7, 0.8)),
        search("quick", 1, (3, 0.78), (9, 0.79)),
        search("gone", 0, error="needs a package"),
    )
    assert compared.best_known == 0.8
    assert [row.tuner for row in compared.rows] == ["quick", "slow", "gone"]
    quick, slow, gone = compared.rows
    assert quick.epochs_to_best == Spread(5, 3, 7, 0)
    assert slow.epochs_to_best == Spread(40, 40, 40, 1), "one seed never came close"
    assert slow.best_rate.median == pytest.approx(0.695)
    assert gone.errors == ("needs a package",)
    assert gone.epochs_to_best.median is None
    said = comparison_headline(compared)
    assert said == "quick came within 0.025 of the best known rate, 0.8, after 5 epochs of training."
    assert cells(slow)[:4] == ["0.695 [0.6, 0.79]", "never", "2 -1", "40 -1"]


def test_a_tuner_that_never_comes_close_is_below_those_that_do():
    compared = comparison(search("never", 0, (1, 0.1)), search("late", 0, (100, 0.9)))
    assert [row.tuner for row in compared.rows] == ["late", "never"]


def test_nothing_found_by_anybody():
    compared = comparison(search("a", 0, (3, None)))
    assert comparison_headline(compared) == "No tuner found anything within the accuracy budget."
    assert "No tuner found" in comparison_page(compared)


def test_it_is_written_and_read_again(tmp_path):
    compared = comparison(search("quick", 0, (2, 0.5), (7, 0.8)), search("gone", 0, error="<needs>"))
    path = write_comparison(compared, tmp_path)
    page = path.read_text()
    assert [row[0] for row in rows(page, "tuners")] == ["quick", "gone"]
    assert "gone: &lt;needs&gt;" in page
    assert Comparison.from_dict(compared.to_dict()) == compared
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert names == ["comparison.html", "comparison.json", "plots/comparison.png", "plots/comparison.svg"]
