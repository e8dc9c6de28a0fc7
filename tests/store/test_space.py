"""Directories that cannot be used are told before anything is measured."""

from pathlib import Path

import pytest

from autocompress.errors import StoreError
from autocompress.store.space import require_writable


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
