"""A study's directory is kept like its storage, wherever the worker is."""

import pytest

from tests.e2e.study import study
from tests.e2e.support import trained_epochs
from tests.engines.optuna.processes import told

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("epochs_log")]


def test_workers_without_a_common_directory_share_artefacts(tmp_path, epochs_log, undisturbed):
    records, expected = undisturbed
    storage, address = f"sqlite:///{tmp_path}/study.db", f"file://{tmp_path}/shared"
    for machine in range(4):  # each runs one trial with nothing but the storage and the address
        one = study(tmp_path / f"machine{machine}", "CountsEpochs", storage, artefacts=address)
        result = one.optimize(n_trials=1)
    assert told(result) == records
    assert trained_epochs(epochs_log) == expected
    assert result.load_model() is not None
