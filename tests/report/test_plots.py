"""Plots: written as SVG and PNG, in the page's colours where it has some."""

import dataclasses
import html
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from autocompress.report import write_report
from autocompress.report.data import read_report_data
from autocompress.report.plots import (
    INK,
    PALETTE,
    WITHIN,
    AccuracyAxis,
    Plot,
    colours,
    kind,
    pareto_front,
    plots,
    scatter_kinds,
)
from autocompress.store import Ledger
from tests.written import plan, record

RECORDS = [record("a", 0.5, feasible=True), record("b", 0.7, feasible=False)]


def draw(axes):
    axes.set_title("rates")
    scatter_kinds(axes, RECORDS, lambda each: (each.requested_rate, each.accuracy))


def test_an_svg_is_one_element_whose_text_can_be_searched():
    text = Plot("", draw).svg()
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert ">rates<" in text
    assert WITHIN in text
    assert Plot("", draw).svg() == text, "the same plot is the same file"


def test_a_themed_svg_has_the_pages_colours_and_no_size_of_its_own():
    text = Plot("", draw).svg(themed=True)
    root = ElementTree.fromstring(text)
    assert "var(--within)" in text
    assert INK not in text
    assert WITHIN not in text
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib


def test_pictures_are_written(tmp_path):
    plot = Plot("", draw)
    plot.write(tmp_path / "rates")
    assert (tmp_path / "rates.svg").read_text().startswith("<?xml")
    assert (tmp_path / "rates.png").read_bytes()[:4] == plot.png()[:4] == b"\x89PNG"


def test_the_users_own_style_is_left_alone():
    before = dict(matplotlib.rcParams)
    Plot("", draw).svg()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, "within the budget"), ({"feasible": False}, "outside"), ({"accuracy": None, "feasible": False}, "failed")],
)
def test_kinds_of_trials(changes, expected):
    assert kind(dataclasses.replace(RECORDS[0], **changes)) == expected


def test_colours_repeat():
    found = colours([str(index) for index in range(len(PALETTE) + 1)])
    assert len(set(found)) == len(PALETTE)
    assert found[0] == found[-1]


def rows(page, table):
    body = re.search(rf'<table[^>]*id="{table}">.*?<tbody>(.*?)</tbody>', page, re.DOTALL).group(1)
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)]
    return [[html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]


def test_several_algorithms_are_compared_by_what_they_save(begun):
    ledger = Ledger(begun)
    for key, name in (("a", "l1"), ("b", "l2")):
        ledger.add(dataclasses.replace(record(key, 0.5, feasible=True), algorithm=name))
    write_report(begun)
    assert (begun.path / "plots" / "pareto.svg").exists()


def test_the_front_is_what_nothing_surpasses():
    def at(saved, accuracy):
        return dataclasses.replace(record("k", 0.5, feasible=True), size_removed=saved, accuracy=accuracy)

    points = [at(0.1, 0.9), at(0.5, 0.8), at(0.5, 0.7), at(0.3, 0.75), at(0.9, 0.1)]
    front = pareto_front(points, higher_is_better=True)
    assert [(each.size_removed, each.accuracy) for each in front] == [(0.1, 0.9), (0.5, 0.8), (0.9, 0.1)]
    lower = pareto_front(points, higher_is_better=False)
    assert [(each.size_removed, each.accuracy) for each in lower] == [(0.9, 0.1)]


def drawn_range(begun, accuracies, *, higher=True, points=()):
    base = dataclasses.replace(plan().measured, accuracy=0.9 if higher else 1.0, higher_is_better=higher)
    begun.write_settings(plan(baseline=base).to_dict())
    return AccuracyAxis.of(read_report_data(begun), accuracies)


@pytest.mark.parametrize(
    ("accuracies", "outliers"),
    [
        ([0.9, 0.893, 0.889, 0.86], []),  # the budget is 0.009 and the threshold 0.891
        ([0.9, 0.1, 0.84], [0.1, 0.84]),
        ([0.5, 0.1], []),  # nothing is near
        ([], []),
        ([0.97, 0.0], [0.0]),
    ],
)
def test_the_axis_covers_the_neighbourhood_of_the_budget(begun, accuracies, outliers):
    axis = drawn_range(begun, accuracies)
    assert [each for each in accuracies if axis.leaves_out(each)] == outliers
    for shown in (0.9, 0.891, *(each for each in accuracies if each not in outliers)):
        assert axis.low < shown < axis.high
        assert axis.place(shown) == shown
    assert all(axis.low < axis.place(each) < axis.high for each in outliers)
    if not outliers and accuracies:
        assert axis.high - axis.low < 1.5 * (max(0.9, *accuracies) - min(0.891, *accuracies))


def test_of_an_error_the_outliers_are_above(begun):
    axis = drawn_range(begun, [1.0, 1.01, 9.0], higher=False)
    assert [each for each in (1.0, 1.01, 9.0) if axis.leaves_out(each)] == [9.0]
    assert axis.edge > (axis.low + axis.high) / 2


def test_outliers_are_marked_with_their_values_where_there_is_room(begun):
    ledger = Ledger(begun)
    for number, (rate, accuracy) in enumerate([(0.1, 0.895), (0.5, 0.123), (0.51, 0.124), (0.9, 0.05)]):
        entry = record(f"key{number}", rate, feasible=accuracy > 0.891)
        ledger.add(dataclasses.replace(entry, accuracy=accuracy))
    text = plots(read_report_data(begun))["accuracy"].svg()
    assert ">0.123<" in text
    assert ">0.05<" in text
    assert ">0.124<" not in text, "it would lie above the other"


def test_a_plot_of_very_many_trials_is_small():
    many = [dataclasses.replace(RECORDS[0], key=str(number), requested_rate=number / 5000) for number in range(5000)]
    text = Plot("", lambda axes: scatter_kinds(axes, many, lambda each: (each.requested_rate, each.accuracy))).svg()
    assert len(text) < 100_000
