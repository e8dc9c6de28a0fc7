from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory
from tests.search.support import trial

KEY = "0123456789abcdef"


@pytest.fixture
def directory(tmp_path):
    return ExperimentDirectory(tmp_path / "experiment")


HOLD = """
import sys
from autocompress.store import ExperimentDirectory
directory = ExperimentDirectory(sys.argv[1])
with (directory.trial(sys.argv[2]) if len(sys.argv) > 2 else directory).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another(*arguments):
    """A process that holds an experiment, or one of its trials."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_a_new_directory(directory):
    assert not directory.exists()
    directory.create()
    assert directory.path.is_dir()
    assert not directory.exists(), "an experiment is there once its settings are"
    directory.create()


def test_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ExperimentDirectory("here").path == tmp_path.resolve() / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ExperimentDirectory("~/there").path == tmp_path.resolve() / "there"


def test_a_directory_of_another_experiment_is_refused(directory):
    directory.create()
    directory.write_settings({"seed": 0})
    message = (
        f"the output directory must not belong to another experiment; {directory.path} does (resume it with "
        f"`autocompress resume {directory.path}`, or name another directory)"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        directory.create()


def test_a_directory_with_other_files_is_refused(directory):
    directory.path.mkdir()
    for name in "fedcba":
        (directory.path / name).write_text("mine")
    message = f"the output directory must be empty; {directory.path} holds a, b, c, d, e"
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        directory.create()
    assert len(list(directory.path.iterdir())) == 6


def test_the_lock_alone_does_not_count_as_a_file(directory):
    with directory.locked():
        directory.create()


def test_a_directory_that_is_a_file_is_refused(directory):
    directory.path.write_text("mine")
    with pytest.raises(StoreError, match=f"^the output directory {re.escape(str(directory.path))} cannot be made: "):
        directory.create()
    assert directory.path.read_text() == "mine"


def test_settings_come_back(directory):
    directory.create()
    directory.write_settings({"seed": 7, "search_space": {"algorithm_name": {"_type": "choice"}}})
    assert directory.exists()
    assert directory.settings() == {"seed": 7, "search_space": {"algorithm_name": {"_type": "choice"}}}


def test_no_settings(directory):
    message = f"{directory.path} holds no experiment: experiment.json is missing"
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        directory.settings()


@pytest.mark.parametrize("settings", [{"schema_version": 2}, {"seed": 0}])
def test_settings_of_another_version(directory, settings):
    directory.create()
    directory.settings_path.write_text(json.dumps(settings))
    message = f"{directory.settings_path} was written by another version of autocompress"
    with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
        directory.settings()


def test_an_experiment_held_by_another_process_is_refused(directory):
    with held_by_another(directory.path) as holder:
        message = f"the experiment in {directory.path} is being run by process {holder.pid}"
        with pytest.raises(StoreError, match=f"^{re.escape(message)}$"), directory.locked():
            pass


def test_an_experiment_whose_holder_was_killed_is_free(directory):
    with held_by_another(directory.path) as holder:
        holder.kill()
        holder.wait()
        with directory.locked():
            assert (directory.path / ".lock").read_text() == str(os.getpid())


def test_an_experiment_is_free_after_use_and_after_an_error(directory):
    with directory.locked():
        pass
    with pytest.raises(ValueError, match="mine"), directory.locked():
        raise ValueError("mine")
    with directory.locked():
        pass


def test_a_trial_held_by_another_process_is_waited_for(directory):
    trial_directory, entered = directory.trial(KEY), threading.Event()

    def enter():
        with trial_directory.locked():
            entered.set()

    with held_by_another(directory.path, KEY) as holder:
        waiting = threading.Thread(target=enter)
        waiting.start()
        assert not entered.wait(0.3), "two processes hold the trial"
        holder.kill()
        assert entered.wait(10), "a killed holder does not let go"
        waiting.join()


def test_trials_are_locked_one_by_one(directory):
    with held_by_another(directory.path, KEY):
        begin = time.monotonic()
        with directory.trial("another").locked(), directory.locked():
            assert time.monotonic() - begin < 5
        with (directory.trial(KEY).path / ".lock").open("a") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_trial_has_ended_once_its_record_is_there(directory):
    trial_directory, record = directory.trial(KEY), trial(0.5, key=KEY)
    assert trial_directory.record() is None
    trial_directory.write_record(record)
    assert trial_directory.record() == record
    assert trial_directory.path == directory.path / "trials" / KEY
    assert trial_directory.checkpoint == directory.path / "trials" / KEY / "checkpoint"


@pytest.mark.parametrize("text", ['{"schema_version": 1, "key"', '{"schema_version": 9}', "[]"])
def test_a_damaged_record(directory, text):
    directory.trial(KEY).write_record(trial(0.5))
    (directory.trial(KEY).path / "record.json").write_text(text)
    with pytest.raises(StoreError, match=r"record\.json|schema_version"):
        directory.trial(KEY).record()


def test_a_learning_curve(directory):
    trial_directory = directory.trial(KEY)
    assert trial_directory.curve() == []
    epochs = [{"epoch": 1, "accuracy": 0.8}, {"epoch": 2, "accuracy": 0.9}]
    for epoch in epochs:
        trial_directory.append_epoch(epoch)
    assert trial_directory.curve() == epochs
    with (trial_directory.path / "curve.jsonl").open("a") as file:
        file.write('{"epoch": 3, "acc')
    assert trial_directory.curve() == epochs


def test_a_traceback(directory):
    trial_directory = directory.trial(KEY)
    assert trial_directory.traceback() is None
    trial_directory.write_traceback("Traceback\nValueError: schön")
    assert trial_directory.traceback() == "Traceback\nValueError: schön"


def test_clearing_drops_what_an_earlier_attempt_left(directory):
    trial_directory = directory.trial(KEY)
    trial_directory.clear()
    trial_directory.write_record(trial(0.5))
    trial_directory.append_epoch({"epoch": 1})
    trial_directory.write_traceback("no")
    trial_directory.clear()
    assert (trial_directory.record(), trial_directory.curve(), trial_directory.traceback()) == (None, [], None)


@pytest.mark.parametrize("key", ["../x", "..", "", "/etc", "a/b", ".lock", "a\0b"])
def test_a_key_that_leads_elsewhere(directory, key):
    with pytest.raises(StoreError, match="a trial's key must be of letters"):
        directory.trial(key)


def test_a_learning_curve_of_another_type(directory):
    directory.trial(KEY).append_epoch({"epoch": 1, "accuracy": "high"})
    with pytest.raises(StoreError, match=r"curve\.jsonl: accuracy must be a finite number; got 'high'"):
        directory.trial(KEY).curve()
