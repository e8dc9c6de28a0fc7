"""What `run` and `resume` say to bad input, before anything is trained."""

import json
import socket

import pytest

from tests.cli.support import invoke
from tests.written import SPACE

CLIFF = "tests/curve_modules.py:Cliff"


@pytest.fixture
def run(tmp_path):
    """Run a module on a search space, into `out`."""

    def invoked(module=CLIFF, *options, wire=SPACE.wire):
        space = tmp_path / "space.json"
        space.write_text(wire if isinstance(wire, str) else json.dumps(wire))
        return invoke("run", module, "--search-space", space, "--out", tmp_path / "out", *options)

    yield invoked
    assert not (tmp_path / "out").exists(), "nothing began, nothing is left"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-relative-drop", "1", "--max-absolute-drop", "0.1"], "must not both be given; got 1 and 0.1"),
        (["--max-relative-drop", "-1"], "must be a finite number >= 0; got -1.0"),
        (["--max-absolute-drop", "nan"], "must be a finite number >= 0; got nan"),
        (["--tuner", "TPEE"], "unknown tuner 'TPEE'; did you mean 'TPE'"),
        (["--tuner", "TPE"], "--trials must be given, as the tuner 'TPE' does not end by itself"),
        (["--tuner", "TPE", "--engine", "optuna"], "--trials must be given, as the tuner 'TPE' does not end by itself"),
        (["--objective", "speed"], "unknown objective 'speed'"),
        (["--seed", "-1"], "seed must be a whole number in [0, 2**32); got -1"),
    ],
)
def test_options(run, options, message):
    answer = run(CLIFF, *options)
    assert answer.exit_code == 2, answer.output
    assert answer.stderr.startswith("error: ")
    assert message in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("option", ["--port=0", "--port=70000", "--trials=0", "--concurrency=0", "--seed=x"])
def test_options_outside_their_range(run, option):
    assert run(CLIFF, option).exit_code == 2


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("tests/nowhere.py:Cliff", "there is no 'tests/nowhere.py'"),
        ("tests.nowhere:Cliff", "tests.nowhere"),
        ("tests/curve_modules.py", "path/to/file.py:ClassName"),
        ("tests/curve_modules.py:Clif", "unknown class 'Clif'; did you mean 'Cliff'"),
        ("tests/curve_modules.py:Path", "must be a subclass of AbstractAutoCompressionModule; Path is not"),
    ],
)
def test_modules(run, module, message):
    answer = run(module)
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr, answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        ("{", "must be JSON"),
        ({"x": 1}, "'algorithm_name'"),
        ({"algorithm_name": {"_type": "choice", "_value": [{"_name": "l3"}]}}, "unknown algorithm 'l3'"),
    ],
)
def test_search_spaces(run, wire, message):
    answer = run(wire=wire)
    assert answer.exit_code == 2, answer.output
    assert message in answer.stderr, answer.stderr


def test_a_search_space_that_is_not_there(tmp_path):
    answer = invoke("run", CLIFF, "--search-space", tmp_path / "space.json", "--out", tmp_path / "out")
    assert answer.exit_code == 2
    assert f"got {tmp_path}/space.json: No such file" in answer.stderr, answer.stderr


def test_a_port_that_is_taken(run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = run(CLIFF, "--port", port)
    assert answer.exit_code == 1
    assert f"the port must be free; port {port} on 127.0.0.1 is taken" in answer.stderr


def test_the_directory_of_another_experiment(store, tmp_path):
    space = tmp_path / "space.json"
    space.write_text(json.dumps(SPACE.wire))
    before = sorted(store.path.rglob("*"))
    answer = invoke("run", CLIFF, "--search-space", space, "--out", store.path)
    assert answer.exit_code == 2
    assert f"autocompress resume {store.path}" in answer.stderr
    assert sorted(store.path.rglob("*")) == before


def test_a_running_experiment_is_not_resumed(store):
    with store.locked():
        answer = invoke("resume", store.path)
    assert answer.exit_code == 2
    assert "is being run by process" in answer.stderr
