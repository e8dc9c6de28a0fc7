"""Plots: written as SVG and PNG, in the page's colours where it has some."""

import dataclasses
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from autocompress.report.plot_style import INK, PALETTE, WITHIN, colours, kind, png, scatter_kinds, svg, write
from tests.written import record

RECORDS = [record("a", 0.5, feasible=True), record("b", 0.7, feasible=False)]


def draw(axes):
    axes.set_title("rates")
    scatter_kinds(axes, RECORDS, lambda each: (each.requested_rate, each.accuracy))


def test_an_svg_is_one_element_whose_text_can_be_searched():
    text = svg(draw)
    root = ElementTree.fromstring(text)
    assert root.tag.endswith("svg")
    assert ">rates<" in text
    assert WITHIN in text
    assert svg(draw) == text, "the same plot is the same file"


def test_a_themed_svg_has_the_pages_colours_and_no_size_of_its_own():
    text = svg(draw, themed=True)
    root = ElementTree.fromstring(text)
    assert "var(--within)" in text
    assert INK not in text
    assert WITHIN not in text
    assert "width" not in root.attrib
    assert "viewBox" in root.attrib


def test_pictures_are_written(tmp_path):
    write(draw, tmp_path / "rates")
    assert (tmp_path / "rates.svg").read_text().startswith("<?xml")
    assert (tmp_path / "rates.png").read_bytes()[:4] == png(draw)[:4] == b"\x89PNG"


def test_the_users_own_style_is_left_alone():
    before = dict(matplotlib.rcParams)
    svg(draw)
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
