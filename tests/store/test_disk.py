"""Directories that cannot be used are told before anything is measured."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from autocompress.errors import StoreError
from autocompress.store.directory import ExperimentDirectory
from autocompress.store.disk import read_json, removed_if_unused, require_writable, write_json


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
