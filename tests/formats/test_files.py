"""The two files of a checkpoint are read together."""

from __future__ import annotations

import collections
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from autocompress.errors import StoreError
from autocompress.formats import files
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.files import read_description, read_files, replace_files

from .strange import Small, copied


def filled(value: float) -> Small:
    model = Small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    for number in (1, 2):
        save_checkpoint(filled(number), tmp_path / f"version{number}", Small())
    return [tmp_path / "version1", tmp_path / "version2"]


@pytest.fixture(params=["exchanged", "moved"])
def replaced(request, monkeypatch):
    """How a file system puts a directory in the place of another one."""
    if request.param == "moved":  # as where it cannot exchange them
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return request.param


def test_readers_see_one_version_while_another_is_put_in_its_place(replaced, versions, tmp_path):
    target, enough = copied(versions[0], tmp_path / "checkpoint"), threading.Event()

    def replace_often() -> None:
        try:
            for number in range(60):
                replace_files(target, copied(versions[number % 2], tmp_path / "beside"))
        finally:
            enough.set()

    def read_often() -> collections.Counter:
        seen = collections.Counter()
        while not enough.is_set() or not seen:
            _, weights = read_files(target)
            seen[tuple(sorted({float(weights[name].flatten()[0]) for name in ("conv.weight", "head.bias")}))] += 1
            read_description(target)
        return seen

    with ThreadPoolExecutor() as pool:
        readers, writer = [pool.submit(read_often) for _ in range(3)], pool.submit(replace_often)
        writer.result()
        for reader in readers:
            assert set(reader.result()) <= {(1.0,), (2.0,)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "version1", "version2"]


def test_two_writers_at_a_time(replaced, versions, tmp_path):
    target = tmp_path / "checkpoint"

    def write(number: int) -> None:
        for turn in range(30):
            replace_files(target, copied(versions[number], tmp_path / f"beside{number}-{turn}"))

    with ThreadPoolExecutor() as pool:
        for writer in [pool.submit(write, number) for number in (0, 1)]:
            writer.result()
    read_files(target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "version1", "version2"]


def test_at_no_moment_there_is_none(versions, tmp_path):
    """Whenever a writer is killed: there is no moment between the old one and the new one."""
    target, beside = copied(versions[0], tmp_path / "checkpoint"), copied(versions[1], tmp_path / "beside")
    if not files._exchange(target, beside):
        pytest.skip("the file system cannot exchange directories")
    assert float(read_files(target)[1]["head.bias"][0]) == 2.0
    assert float(read_files(beside)[1]["head.bias"][0]) == 1.0


def test_files_of_two_versions_are_not_taken_for_one(versions):
    (versions[0] / "weights.pt").write_bytes((versions[1] / "weights.pt").read_bytes())
    with pytest.raises(StoreError, match=r"damaged: weights\.pt does not have the checksum in structure\.json"):
        read_files(versions[0])


def test_each_file_is_opened_once(versions, monkeypatch):
    opened, real = [], os.open
    monkeypatch.setattr("os.open", lambda path, *rest: opened.append(Path(path)) or real(path, *rest))
    read_files(versions[0])
    assert [path.name for path in opened if not path.is_dir()] == ["structure.json", "weights.pt"]


def test_what_cannot_be_loaded_again_leaves_what_was_there(tmp_path):
    class Forgets(Small):
        def get_extra_state(self):
            return 1

    save_checkpoint(filled(1), tmp_path / "checkpoint", Small())
    with pytest.raises(StoreError, match=r"must be loadable from its checkpoint; RuntimeError: .*_extra_state"):
        save_checkpoint(Forgets(), tmp_path / "checkpoint", Forgets())
    assert load_compressed(tmp_path / "checkpoint", Small()).head.bias[0] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
