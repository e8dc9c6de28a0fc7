"""Experiments as they lie on disk."""

import pytest

from autocompress.store import ExperimentDirectory, Ledger
from tests.written import plan, propose, record


@pytest.fixture
def new_store(tmp_path):
    """An experiment whose baseline has been measured, and no more."""
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    directory.write_settings(plan().to_dict())
    return directory


@pytest.fixture
def store(new_store):
    """An experiment of which two trials have ended, the better one feasible, and a third runs."""
    ledger = Ledger(new_store)
    for _ in range(2):
        key, rate = propose(ledger)
        ledger.add(record(key, rate, feasible=rate < 0.6))
    propose(ledger)
    new_store.trial("key2").append_epoch({"epoch": 2, "accuracy": 0.85})
    return new_store
