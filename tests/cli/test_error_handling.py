"""Exit codes, messages, help."""

import os
import signal
import subprocess
import sys

import pytest
import typer

from autocompress import errors
from autocompress.cli.error_handling import Interrupts, errors_as_messages
from tests.cli.support import invoke

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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_again_does_not_break_off_the_stopping(number):
    before, interrupts = signal.getsignal(number), Interrupts()
    with interrupts.counted():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert interrupts.count == 3
    assert signal.getsignal(number) is before


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
        "from autocompress.cli.app import app\n"
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
