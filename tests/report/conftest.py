"""Experiments on disk, written by hand, for reports."""

import dataclasses

import pytest

from autocompress.records import LayerSize, ModelSizes
from autocompress.store import ExperimentDirectory, Ledger, Verdict
from tests.written import finish, plan


@pytest.fixture
def begun(tmp_path):
    """An experiment whose baseline has been measured, and no more."""
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    directory.write_settings(plan().to_dict())
    return directory


@pytest.fixture
def ended(begun):
    """A finished search: 0.5, 0.6 (outside), 0.55, 0.575; the last one within is 0.575, verified."""
    ledger = Ledger(begun)
    finish(ledger)
    for record in ledger.records:
        for epoch, accuracy in enumerate((record.accuracy - 0.002, record.accuracy), 1):
            begun.trial(record.key).append_epoch({"epoch": epoch, "accuracy": accuracy})
    best = max((each for each in ledger.records if each.feasible), key=lambda each: each.score)
    ledger.add_verdict(best.key, Verdict(0.895, 0.87, True))
    layers = (LayerSize("conv", "Conv2d", 900, 700, 0.002, 16), LayerSize("out", "Linear", 100, 100, None, 10))
    narrower = dataclasses.replace(layers[0], width=8)
    begun.trial(best.key).write_sizes(ModelSizes(layers, (narrower,), 0.003, 0.001))
    return begun
