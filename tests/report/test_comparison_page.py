"""The page of a comparison, in a browser."""

import pytest

from autocompress.report.comparison import Comparison, Point, SearchOutcome
from autocompress.report.page import write_comparison
from tests.e2e.browser import DESKTOP, PHONE, looking

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_a_comparison(tmp_path, width):
    path = tuple(Point(number, 3 * number, number / 10) for number in range(1, 9))
    outcomes = [
        SearchOutcome(tuner, seed, f"{tuner}/{seed}", best_rate=0.8, trials=8, epochs=24, path=path)
        for tuner in ("adaptive", "tpe")
        for seed in (0, 1)
    ]
    compared = Comparison("Cliff", "rate", 0.891, 0.9, 20, 0.025, "nni-tuner", {"python": "3.11"}, tuple(outcomes))
    with looking(write_comparison(compared, tmp_path), width) as look:
        look.keep(f"comparison-{width}")
        assert look.complaints == []
        assert look.hosts == {""}
        assert look.width() <= width
        assert look.page.locator("#tuners tbody tr").count() == 2
