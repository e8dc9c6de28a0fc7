"""What a stranger may try with a checkpoint: each is refused before anything happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autocompress.compress.shipping.checkpoint import load_compressed

from .attacks import ATTACKS
from .strange import KINDS, Small, outputs, write_checkpoint


@pytest.fixture(scope="module")
def suffered(tmp_path_factory):
    valid, folder = tmp_path_factory.mktemp("valid"), tmp_path_factory.mktemp("attacks")
    for kind in KINDS:
        write_checkpoint(kind, valid / kind)
    done = subprocess.run(
        [sys.executable, "-m", "tests.compress.shipping.attacks", str(valid), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


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


def test_the_attacked_checkpoints_are_fine_themselves(tmp_path):
    for kind in KINDS:
        first, second = (load_compressed(write_checkpoint(kind, tmp_path / kind), Small()) for _ in range(2))
        assert torch.equal(outputs(first), outputs(second))
