"""The two files of a checkpoint are read together."""

from __future__ import annotations

import collections
import itertools
import os
import threading
from pathlib import Path

import pytest
import torch

from autocompress.errors import StoreError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.files import read_files, replace_files

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


def test_a_reader_sees_one_version_while_another_is_put_in_its_place(versions, tmp_path):
    target, enough = copied(versions[0], tmp_path / "checkpoint"), threading.Event()

    def replace_often() -> None:
        for number in itertools.count():
            replace_files(target, copied(versions[number % 2], tmp_path / "beside"))
            if enough.is_set():
                return

    writer = threading.Thread(target=replace_often)
    writer.start()
    seen = collections.Counter()
    try:
        while min(seen[1.0,], seen[2.0,]) < 20:
            _, weights = read_files(target)
            seen[tuple(sorted({float(weights[name].flatten()[0]) for name in ("conv.weight", "head.bias")}))] += 1
    finally:
        enough.set()
        writer.join()
    assert set(seen) == {(1.0,), (2.0,)}


def test_files_of_two_versions_are_not_taken_for_one(versions):
    (versions[0] / "weights.pt").write_bytes((versions[1] / "weights.pt").read_bytes())
    with pytest.raises(StoreError, match=r"damaged: weights\.pt does not have the checksum in structure\.json"):
        read_files(versions[0])


def test_each_file_is_opened_once(versions, monkeypatch):
    opened, real = [], os.open
    monkeypatch.setattr("os.open", lambda path, *rest: opened.append(Path(path).name) or real(path, *rest))
    read_files(versions[0])
    assert opened == ["structure.json", "weights.pt"]


def test_what_cannot_be_loaded_again_leaves_what_was_there(tmp_path):
    class Forgets(Small):
        def get_extra_state(self):
            return 1

    save_checkpoint(filled(1), tmp_path / "checkpoint", Small())
    with pytest.raises(StoreError, match=r"must be loadable from its checkpoint; RuntimeError: .*_extra_state"):
        save_checkpoint(Forgets(), tmp_path / "checkpoint", Forgets())
    assert load_compressed(tmp_path / "checkpoint", Small()).head.bias[0] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]
