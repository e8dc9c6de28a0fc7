import os

import pytest

from autocompress.engines.nni.private import make_private_directory, make_private_file
from autocompress.errors import EngineError


def mode(path):
    return path.stat().st_mode & 0o777


def test_what_is_made_is_its_owners(tmp_path):
    make_private_directory(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    path = make_private_file(tmp_path / "a" / "b" / "file", b"{}")
    assert (mode(path), path.read_bytes()) == (0o600, b"{}")


def test_what_is_there_is_closed_and_kept(tmp_path):
    """As an earlier version made it."""
    folder, path = tmp_path / "folder", tmp_path / "folder" / "file"
    folder.mkdir(mode=0o755)
    path.write_text("mine")
    path.chmod(0o664)
    make_private_directory(folder)
    make_private_file(path, b"{}")
    assert (mode(folder), mode(path), path.read_text()) == (0o700, 0o600, "mine")


def test_the_umask_is_left_alone(tmp_path):
    before = os.umask(0o022)
    try:
        make_private_file(tmp_path / "file")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_what_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="only you can read"):
        make_private_directory(tmp_path / "file" / "x")
    with pytest.raises(EngineError, match="only you can read"):
        make_private_file(tmp_path / "none" / "x")
