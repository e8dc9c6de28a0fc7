"""A study's directory is kept like its storage, wherever the worker is."""

import copy

import pytest

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.study import study
from tests.e2e.support import trained_epochs

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def epochs_log(tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    return tmp_path / "epochs.log"


@pytest.fixture
def undisturbed(shared, monkeypatch, epochs_log):
    """Records of a study of CountsEpochs with l2, and the epochs that were trained at each rate."""

    def search(folder):
        monkeypatch.setenv("EPOCHS_LOG", str(folder / "epochs.log"))
        study(folder / "experiment", "CountsEpochs").optimize()
        monkeypatch.setenv("EPOCHS_LOG", str(epochs_log))

    folder = shared("CountsEpochs on Optuna", search)
    result = CompressionResult(ExperimentDirectory(folder / "experiment"))
    return told(result), trained_epochs(folder / "epochs.log")


def told(result):
    """All records without what a clock says."""
    plain = [copy.deepcopy(record.to_dict()) for record in result.records]
    return sorted(({**each, "seconds": 0} for each in plain), key=lambda each: (each["algorithm"], each["key"]))


def test_workers_without_a_common_directory_share_artefacts(tmp_path, epochs_log, undisturbed):
    records, expected = undisturbed
    storage, address = f"sqlite:///{tmp_path}/study.db", f"file://{tmp_path}/shared"
    for machine in range(4):  # each runs one trial with nothing but the storage and the address
        one = study(tmp_path / f"machine{machine}", "CountsEpochs", storage, artefacts=address)
        result = one.optimize(n_trials=1)
    assert told(result) == records
    assert trained_epochs(epochs_log) == expected
    assert result.load_model() is not None
