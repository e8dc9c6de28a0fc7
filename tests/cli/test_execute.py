"""Searches of the command line on a terminal: Ctrl-C, and going on."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest
import typer

from autocompress import errors, load_compressed
from autocompress.cli.execute import errors_as_messages
from tests.cli.support import Terminal, invoke, looked, record_files
from tests.e2e.launch import search_space
from tests.e2e.support import manager_of, processes_of, results, trial_of, until


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_and_resume(tmp_path):
    directory, space = tmp_path / "experiment", tmp_path / "space.json"
    space.write_text(json.dumps(search_space("l2")))
    terminal = Terminal(directory, "run", "tests/curve_modules.py:Slow", "--search-space", space, "--out", directory)
    try:
        until(lambda: len(results(directory)) >= 1 and trial_of(directory), terminal)
        assert f"state    running (process {terminal.process.pid})" in looked(directory, "status")
        terminal.press(b"\x03")
        until(lambda: "stopping" in terminal.printed(), terminal, 20)
        with contextlib.suppress(OSError):
            terminal.press(b"\x03")  # impatience does not break off the stopping
        assert terminal.wait(60) == 130, terminal.printed()
        assert manager_of(directory) is None
        assert not list(processes_of(directory)), "nothing may be left running"
    finally:
        terminal.close()
    assert f"stopped; go on with: autocompress resume {directory}" in terminal.printed().replace("\r\n", "")
    assert "Traceback" not in terminal.printed()
    assert "not running; go on with" in looked(directory, "status")
    before = record_files(directory, {record.key for record in results(directory)})
    assert before
    terminal = Terminal(directory, "resume", directory)
    try:
        assert terminal.wait() == 0, terminal.printed()
    finally:
        terminal.close()
    assert before.items() <= record_files(directory, before).items(), "no finished trial was trained again"
    assert [record.requested_rate for record in results(directory)] == [0.5, 0.6, 0.7, 0.65, 0.625]
    checkpoint = json.loads(looked(directory, "best", "--json"))["checkpoint"]
    assert load_compressed(checkpoint).hidden.out_features == 160


@pytest.mark.slow
def test_ctrl_c_before_the_search_has_begun(tmp_path):
    directory, space = tmp_path / "experiment", tmp_path / "space.json"
    space.write_text(json.dumps(search_space("l2")))
    terminal = Terminal(directory, "run", "tests/curve_modules.py:Slow", "--search-space", space, "--out", directory)
    try:
        until(lambda: "measuring the uncompressed model" in terminal.printed(), terminal)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.wait(60) == 130, terminal.printed()
    finally:
        terminal.close()
    assert "stopped" in terminal.printed()
    assert "Traceback" not in terminal.printed()
    assert not list(processes_of(directory))


CRASH = errors.TrialError("RuntimeError: no data", 'Traceback of the child\n  File "digits.py"')


def raised(error, *, debug=False, cause=None):
    with pytest.raises(typer.Exit) as caught, errors_as_messages(debug=debug):
        raise error from cause
    return caught.value.exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("no"), 2),
        (errors.ModuleError("no"), 2),
        (errors.StoreError("no"), 2),
        (errors.EngineError("no"), 1),
        (errors.CompressionError("no"), 1),
        (errors.TrialError("no"), 1),
        (errors.InfeasibleBudgetError(0.5, 0.9, []), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error, code):
    assert raised(error) == code


def test_one_clear_message(capsys):
    raised(errors.ConfigError("seed must be whole"))
    assert capsys.readouterr() == ("", "error: seed must be whole\n")


@pytest.mark.parametrize(("error", "cause"), [(CRASH, None), (errors.ModuleError("RuntimeError: no data"), CRASH)])
def test_the_traceback_of_a_trial_is_shown_with_debug_only(capsys, error, cause):
    raised(error, cause=cause)
    assert capsys.readouterr().err == ("error: RuntimeError: no data\n(--debug prints the traceback of its cause)\n")
    raised(error, cause=cause, debug=True)
    told = capsys.readouterr().err
    assert "Traceback of the child" in told
    assert told.endswith("error: RuntimeError: no data\n")


def test_other_errors_are_bugs_and_pass():
    with pytest.raises(ZeroDivisionError), errors_as_messages():
        _ = 1 / 0


def test_version():
    from importlib.metadata import version

    answer = invoke("--version")
    assert (answer.exit_code, answer.output) == (0, f"{version('autocompress')}\n")


@pytest.mark.parametrize("command", ["run", "resume", "status", "trials", "best"])
def test_help(command):
    assert command in invoke("--help").output
    answer = invoke(command, "--help")
    assert answer.exit_code == 0
    assert "Usage" in answer.output


def test_help_of_run_has_an_example():
    assert "autocompress run my_module.py:MyModule --algorithm l2" in invoke("run", "--help").output


def test_help_needs_neither_torch_nor_nni():
    code = (
        "import sys\n"
        "from autocompress.cli.__main__ import app\n"
        "app(['run', '--help'], standalone_mode=False)\n"
        "assert not {'torch', 'nni', 'optuna'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_as_a_python_module():
    done = subprocess.run(
        [sys.executable, "-m", "autocompress.cli", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: autocompress " in done.stdout
