"""Searches of the command line on a terminal: Ctrl-C, and going on."""

import contextlib
import json
import signal

import pytest

from autocompress import load_compressed
from tests.cli.support import Terminal, looked, record_files
from tests.e2e.launch import search_space
from tests.e2e.support import manager_of, processes_of, results, trial_of, until

pytestmark = pytest.mark.slow


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
