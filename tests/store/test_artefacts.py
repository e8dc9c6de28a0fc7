"""Trials' files at an address: whole or not there, and never damaged unnoticed."""

import pytest

from autocompress.errors import StoreError
from autocompress.store.artefacts import Artefacts


@pytest.fixture
def trial(tmp_path):
    directory = tmp_path / "here"
    (directory / "checkpoint").mkdir(parents=True)
    (directory / "checkpoint" / "weights.pt").write_bytes(b"weights" * 1000)
    (directory / "record.json").write_text("{}")
    (directory / ".lock").write_text("")
    return directory


@pytest.fixture(params=["path", "file", "memory"])
def artefacts(request, tmp_path):
    url = {"path": str(tmp_path / "shared"), "file": f"file://{tmp_path}/shared", "memory": "memory://shared"}
    return Artefacts.at(url[request.param])


def test_there_and_back(artefacts, trial, tmp_path):
    assert not artefacts.pull("k1", tmp_path / "there")
    artefacts.push("k1", trial)
    assert artefacts.pull("k1", tmp_path / "there")
    found = {
        path.relative_to(tmp_path / "there").as_posix() for path in (tmp_path / "there").rglob("*") if path.is_file()
    }
    assert found == {"checkpoint/weights.pt", "record.json"}
    assert (tmp_path / "there" / "checkpoint" / "weights.pt").read_bytes() == b"weights" * 1000


def test_what_is_here_is_not_brought_again(artefacts, trial):
    assert artefacts.pull("never pushed", trial)


def test_a_push_that_was_cut_off_is_not_there(trial, tmp_path):
    artefacts = Artefacts.at(str(tmp_path / "shared"))
    artefacts.push("k1", trial)
    (tmp_path / "shared" / "trials" / "k1" / "manifest.json").unlink()
    assert not artefacts.pull("k1", tmp_path / "there")


def test_damage_is_found(trial, tmp_path):
    artefacts = Artefacts.at(str(tmp_path / "shared"))
    artefacts.push("k1", trial)
    (tmp_path / "shared" / "trials" / "k1" / "checkpoint" / "weights.pt").write_bytes(b"other")
    with pytest.raises(StoreError, match=r"weights\.pt of trial k1 is damaged; its checksum is another one"):
        artefacts.pull("k1", tmp_path / "there")


def test_an_unknown_protocol():
    with pytest.raises(StoreError, match="must be at an address that fsspec knows; got 'nowhere://x'"):
        Artefacts.at("nowhere://x")


def test_an_address_that_cannot_be_written(trial, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written to"):
        Artefacts.at(str(tmp_path / "file")).push("k1", trial)


@pytest.mark.parametrize(
    "manifest",
    [
        '{"../../x": "0"}',
        '{"checkpoint/../../../x": "0"}',
        '{"/tmp/x": "0"}',
        '{".ssh/authorized_keys": "0"}',
        '["checkpoint"]',
        '{"checkpoint": NaN}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_leads_elsewhere(trial, tmp_path, manifest):
    """Whoever can write to the address cannot write here what is not a trial's."""
    artefacts = Artefacts.at(str(tmp_path / "shared"))
    artefacts.push("k1", trial)
    place = tmp_path / "shared" / "trials" / "k1"
    (place / "manifest.json").write_text(manifest)
    with pytest.raises(StoreError, match=r"manifest\.json of trial k1"):
        artefacts.pull("k1", tmp_path / "there")
    assert not (tmp_path / "there").exists()
