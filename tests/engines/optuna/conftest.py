"""What the tests of real studies share."""

import pytest

from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from tests.e2e.study import study
from tests.e2e.support import trained_epochs
from tests.engines.optuna.processes import told


@pytest.fixture
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
