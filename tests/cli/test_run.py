"""Real searches from the command line: digits from start to end, and Ctrl-C on a terminal."""

import json
import re

import pytest

from tests.cli.support import looked
from tests.e2e import digits

pytestmark = pytest.mark.slow


def test_digits(shared):
    folder, printed = digits.finished(shared)
    out, port, stdout = folder / "experiment", printed["port"], printed["stdout"]
    assert printed["stderr"] == ""
    url, accuracy, longest, first = stdout.splitlines()[:4]
    assert re.fullmatch(rf"web page: http://127\.0\.0\.1:{port}/[0-9a-f]{{32}}/oview", url)
    assert accuracy.startswith("accuracy: ")
    assert re.match(r"search: at most \d+ trials, \d+ epochs; ", longest)
    assert first.startswith("trial 1: l2 at rate 0.5: accuracy ")
    assert "INFO" not in stdout, "NNI's own lines are left out"
    status = looked(out, "status")
    assert "state    ended" in status
    assert "when loaded afresh" in status
    records = json.loads(looked(out, "trials", "--json"))
    assert sum(line.startswith("trial ") for line in stdout.splitlines()) == len(records)
    best = json.loads(looked(out, "best", "--json"))
    assert best["feasible"]
    assert best["verified_accuracy"] == pytest.approx(best["accuracy"])
    assert f'autocompress.load_compressed("{best["checkpoint"]}", trust_module=True)' in stdout
