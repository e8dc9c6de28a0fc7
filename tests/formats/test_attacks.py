"""What a stranger may try with a checkpoint: each is refused before anything happens."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autocompress.formats.checkpoint import load_compressed

from .attacks import ATTACKS, Runs
from .strange import KINDS, Small, outputs, watch, write_checkpoint


@pytest.fixture(scope="module")
def suffered(shared):
    return json.loads((shared("attacks on checkpoints", attack) / "suffered.json").read_text())


def attack(place):
    valid, folder = place / "valid", place / "attacks"
    valid.mkdir()
    folder.mkdir()
    for kind in KINDS:
        write_checkpoint(kind, valid / kind)
    done = subprocess.run(
        [sys.executable, "-m", "tests.formats.attacks", str(valid), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stderr
    (place / "suffered.json").write_text(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ATTACKS)
def test_it_is_refused_before_anything_happens(name, suffered):
    found = suffered["attacks"][name]
    assert found["answer"].startswith("StoreError: "), found
    assert found["seen"] == []
    assert found["compiled"] == 0


def test_nothing_was_run_imported_or_taken(suffered):
    assert not suffered["canary"]
    assert not suffered["imported"]
    assert suffered["bytes"] < 400 << 20


def test_the_watch_sees_what_it_is_there_for(tmp_path):
    (tmp_path / "seen_by_watch.py").write_text("")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Runs("__import__('os').system('true')")))
    seeing, path = watch(tmp_path), list(sys.path)
    with seeing.on():
        sys.path.insert(0, str(tmp_path))
        importlib.import_module("seen_by_watch")
        pickle.loads((tmp_path / "pickle").read_bytes())
        (tmp_path / "written").write_text("")
        Path("/etc/hosts").read_bytes()
        subprocess.run(["true"], check=True)
    sys.path[:] = path
    assert "seen_by_watch" in seeing.imports
    assert [str(tmp_path / "written") in seeing.files[0], "/etc/hosts" in seeing.files[1]] == [True, True]
    for event in ("os.system", "pickle.find_class", "subprocess.Popen", "sys.path"):
        assert any(each.startswith(event) for each in seeing.executions), event
    assert seeing.compiled > 0


def test_the_attacked_checkpoints_are_fine_themselves(tmp_path):
    for kind in KINDS:
        first, second = (load_compressed(write_checkpoint(kind, tmp_path / kind), Small()) for _ in range(2))
        assert torch.equal(outputs(first), outputs(second))
