"""Directories that cannot be used are told before anything is measured."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from autocompress.errors import StoreError
from autocompress.store.directory import ExperimentDirectory, read_json, removed_if_unused, require_writable, write_json
from tests.search.support import trial


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "down" / "record.json"
    content = {"rate": 0.1 + 0.2, "name": "Prüfung", "none": None, "nested": {"list": [1, 2.5, "x"]}}
    write_json(path, content)
    assert read_json(path) == content
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, {"long": "x" * 1000})
    before = path.stat().st_ino
    write_json(path, {"short": 1})
    assert read_json(path) == {"short": 1}
    assert path.stat().st_ino != before, "it was written in place: a crash could leave half of it"


@pytest.mark.parametrize(
    ("content", "error"), [({"a": 1, "b": float("nan")}, ValueError), ({"a": 1, "b": object()}, TypeError)]
)
def test_what_cannot_be_json_leaves_the_old_file_and_nothing_beside(tmp_path, content, error):
    path = tmp_path / "record.json"
    write_json(path, {"old": True})
    with pytest.raises(error):
        write_json(path, content)
    assert read_json(path) == {"old": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_half_written_file_beside_is_not_read(tmp_path):
    """What a crash leaves."""
    path = tmp_path / "record.json"
    write_json(path, {"old": True})
    (tmp_path / f".record.json.{os.getpid()}").write_text('{"new": tr')
    assert read_json(path) == {"old": True}
    write_json(path, {"new": True})
    assert read_json(path) == {"new": True}
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.json"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "record.json"
    with pytest.raises(StoreError, match=f"^{re.escape(str(path))} cannot be written: "):
        write_json(path, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cut": ', "cannot be read: Expecting value"),
        ("", "cannot be read: Expecting value"),
        ("[1, 2]", "must hold a JSON object; got list"),
        ("null", "must hold a JSON object; got NoneType"),
    ],
)
def test_a_damaged_file(tmp_path, text, message):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=f"^{re.escape(f'{path} {message}')}"):
        read_json(path)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="cannot be read"):
        read_json(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(StoreError, match=r"missing\.json cannot be read: "):
        read_json(tmp_path / "missing.json")


def test_a_directory_is_made_and_nothing_is_left_in_it(tmp_path):
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"^the output directory .*file/out cannot be made: .* \(name another one\)$"):
        require_writable(tmp_path / "file" / "out")


def test_a_place_where_no_file_can_be_written():
    with pytest.raises(StoreError, match=r"^the output directory /proc cannot be written to: .* \(name another one\)$"):
        require_writable(Path("/proc"))


def test_what_was_made_for_nothing_goes_with_its_parents(tmp_path):
    path = tmp_path / "out" / "search"
    with pytest.raises(ValueError, match="refused"), removed_if_unused(path), ExperimentDirectory(path).locked():
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())


def test_what_was_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "other").touch()
    with removed_if_unused(tmp_path / "out" / "search"):
        (tmp_path / "out" / "search").mkdir()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]
    with removed_if_unused(tmp_path / "out"):
        (tmp_path / "out" / "other").unlink()
    assert (tmp_path / "out").is_dir(), "an empty directory of the user's"


def test_what_holds_something_stays(tmp_path):
    path = tmp_path / "out" / "search"
    with removed_if_unused(path):
        path.mkdir(parents=True)
        (path / "experiment.json").touch()
    assert (path / "experiment.json").exists()


def test_a_block_that_made_nothing(tmp_path):
    with removed_if_unused(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


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


def test_the_command_that_resumes_can_be_pasted(tmp_path):
    directory = ExperimentDirectory(tmp_path / "it's here; $HOME")
    directory.create()
    directory.write_settings({"seed": 0})
    with pytest.raises(StoreError) as caught:
        directory.create()
    pasted = re.search("`(.*)`", str(caught.value)).group(1)
    assert shlex.split(pasted) == ["autocompress", "resume", str(directory.path)]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_a_place_that_cannot_be_written_to_is_said_to_be(tmp_path, place):
    (tmp_path / "file").touch()
    directory = ExperimentDirectory(tmp_path / place)
    assert not directory.exists()
    with pytest.raises(StoreError, match=r"output directory .* cannot be made: .* \(name another"), directory.locked():
        pass
    with removed_if_unused(directory.path):
        pass


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


@pytest.mark.parametrize("path", ["a\0b", "a\ud800b", "x" * 5000])
def test_a_path_that_no_file_can_have(path):
    with pytest.raises(StoreError, match=r"^a path must be one that a file can have; got ") as caught:
        ExperimentDirectory(path)
    assert str(caught.value).encode()


def test_a_directory_that_cannot_be_locked(directory):
    (directory.path / ".lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be locked: "), directory.locked():
        pass


def test_of_a_long_traceback_the_end_is_read(directory):
    trial_directory = directory.trial(KEY)
    trial_directory.write_traceback("x" * 10_000_000 + "ValueError: at its end")
    assert len(trial_directory.traceback()) < 1_000_000
    assert trial_directory.traceback().endswith("ValueError: at its end")


@pytest.mark.parametrize("content", [{}, {"a": 1, "b": [{"c": None}]}])
def test_a_file_with_a_checksum(tmp_path, content):
    path = tmp_path / "file.json"
    write_json(path, content, checksum=True)
    assert read_json(path, checksum=True) == content
    assert json.loads(path.read_text()).keys() == {*content, "checksum"}
    path.write_text(path.read_text().replace("1", "2") + " ")
    if content:
        with pytest.raises(StoreError, match="it is not what was written"):
            read_json(path, checksum=True)
    path.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="it must end with a checksum"):
        read_json(path, checksum=True)
