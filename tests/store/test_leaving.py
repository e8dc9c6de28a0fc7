import pytest

from autocompress.store.directory import ExperimentDirectory
from autocompress.store.leaving import removed_if_unused


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
