"""The plots of a report."""

import dataclasses
import html
import re

from autocompress.report import write_report
from autocompress.report.plots import pareto_front
from autocompress.store import Ledger
from tests.written import record


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
