"""Plots: written as SVG and PNG, in the page's colours where it has some."""

import dataclasses
import html
import re
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from autocompress.report import write_report
from autocompress.report.plots import (
    INK,
    PALETTE,
    WITHIN,
    Plot,
    colours,
    kind,
    pareto_front,
    scatter_kinds,
)
from autocompress.store import Ledger
from tests.written import record

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
