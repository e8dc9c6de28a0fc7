"""`autocompress check`: in a process of its own, as a table or as JSON."""

import dataclasses
import io
import json
import re

import pytest
from rich.console import Console

from autocompress.cli.tables import checks_table, reasons_against, trial_lines, trials_table
from autocompress.registry import algorithms
from autocompress.search_space import default_space
from autocompress.store import Verdict
from autocompress.trial.check import AlgorithmCheck, Reduction
from tests.cli.support import invoke
from tests.curve_modules import Knee
from tests.written import record

KNEE = "tests/curve_modules.py:Knee"


@pytest.fixture
def space(tmp_path):
    def written(*algorithms):
        path = tmp_path / "space.json"
        path.write_text(json.dumps(default_space(algorithms).wire))
        return path

    return written


@pytest.mark.slow
def test_a_table(space):
    answer = invoke("check", KNEE, "--search-space", space("l2", "naive"))
    assert answer.exit_code == 0, answer.output
    *_, heads, low, high, quantized, coverage = (line.split() for line in answer.stdout.splitlines())
    assert heads == ["algorithm", "rate", "achieved", "removed", "MACs", "saved", "sec", "verdict"]
    assert low[:5] == ["l2", "0.300", "0.300", "30.0%", "30.0%"]
    assert high[:4] == ["0.900", "0.900", "89.9%", "90.0%"]
    assert quantized[:3] == ["naive", "-", "0.750"]
    assert (low[-1], quantized[-2:]) == ("applies", ["applies", "(simulated)"])
    assert " ".join(coverage) == "l2: 100% of the parameters can lose filters"


@pytest.mark.slow
def test_layers_that_are_left_alone_are_named(space):
    answer = invoke("check", "tests/trial/test_left_alone.py:Shuffled", "--search-space", space("l2", "fpgm"))
    assert answer.exit_code == 0, answer.output
    coverage, line = [line for line in answer.stdout.splitlines() if "left alone" in line]
    assert coverage.startswith("l2, fpgm: 77% of the parameters can lose filters; not: other layers left alone 16%, ")
    assert line.startswith(
        "l2, fpgm: left alone: depthwise.0: its channels are mixed or reordered on the way to second.0"
    )
    assert line.endswith("; it keeps its filters")


@pytest.mark.slow
def test_what_does_not_apply_is_told_and_ends_with_2(space):
    answer = invoke("check", KNEE, "--search-space", space("slim", "l2"))
    assert answer.exit_code == 2, answer.output
    assert re.search(r"^slim +does not apply: needs criterion\(\) *$", answer.stdout, re.MULTILINE), answer.stdout
    assert re.search(r"^l2 +0.300 .* applies *$", answer.stdout, re.MULTILINE), answer.stdout


@pytest.mark.slow
def test_json_of_every_algorithm():
    answer = invoke("check", KNEE, "--json")
    assert answer.exit_code == 0, answer.output  # without a search space nothing was asked for that does not apply
    told = json.loads(answer.stdout)
    found = {check["algorithm"]: check for check in told["checks"]}
    assert list(found) == list(algorithms())
    assert found["slim"]["missing_hooks"] == ["criterion()"]
    assert [each["requested_rate"] for each in found["l2"]["reductions"]] == [0.3, 0.9]
    assert set(told["preflight"]["accuracies"]) == {Knee.evaluator()(Knee.model())}
    assert told["preflight"]["noise"] == 0
    assert told["preflight"]["step_seconds"] > 0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tests/nowhere.py:Cliff", "there is no 'tests/nowhere.py'"),
        ("tests/curve_modules.py:Kne", "unknown class 'Kne'; did you mean 'Knee'"),
        ("tests/curve_modules.py:Abstract", "evaluator"),
    ],
)
@pytest.mark.slow
def test_a_bad_module(module, message):
    answer = invoke("check", module)
    assert answer.exit_code == 2, answer.output
    assert answer.stderr.startswith("error: ")
    assert message in answer.stderr, answer.stderr


def test_a_bad_search_space(tmp_path):
    (tmp_path / "space.json").write_text("{")
    answer = invoke("check", KNEE, "--search-space", tmp_path / "space.json")
    assert answer.exit_code == 2, answer.output
    assert "space.json" in answer.stderr, answer.stderr
    assert not answer.stdout


def test_many_trials_are_the_same_table_without_rich():
    records = [record(f"key{number}", number / 40, feasible=number < 20) for number in range(40)]
    records.append(dataclasses.replace(records[0], accuracy=None, error="ValueError: \x1b[31mlong " + "reason " * 50))
    verdicts = {"key3": Verdict(0.2, None, False)}
    console = Console(width=1000, file=io.StringIO())
    console.print(trials_table(records, verdicts=verdicts))
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert trial_lines(records, verdicts) == lines
    assert "\x1b" not in lines[-1]


def test_what_check_found_fits_a_terminal():
    reductions = (Reduction(0.3, 0.297, 0.512, 0.498, 0.46, 0.2), Reduction(0.9, 0.897, 0.992, 0.998, 0.96, 10.2))
    checks = [
        AlgorithmCheck("magnitude_sparsity", True, fine_tunes=True, reductions=reductions),
        AlgorithmCheck("mean_activation+dorefa", False, "no layer of type 'Linear' " * 10),
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(checks_table(checks))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 4, "nothing is wrapped"
    assert "\u2026" not in console.file.getvalue(), "nothing is cut"
    assert reasons_against(checks) == [f"mean_activation+dorefa does not apply: {checks[1].reason}"]
