"""Experiments whose trials are processes: the uncompressed model measured, one order for each rate."""

import dataclasses
import functools
import sys
import tempfile
from pathlib import Path

import pytest

from autocompress.compression.module_loading import ModuleReference
from autocompress.records import Baseline
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from autocompress.trial.child import measure_in_child
from tests.written import plan

linux = pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux")


SPACE = default_space(["l2"])


THRESHOLD = 0.8


@functools.lru_cache
def measured(module):
    with tempfile.TemporaryDirectory() as folder:
        return measure_in_child(ModuleReference.of(module).to_dict(), SPACE.wire, Path(folder)).to_dict()


def begun(directory, module, fingerprint=None):
    """An experiment's directory, its uncompressed model measured."""
    store, reference = ExperimentDirectory(directory), ModuleReference.of(module)
    store.path.mkdir()
    baseline = Baseline.from_dict(measured(module))
    baseline = dataclasses.replace(baseline, fingerprint=fingerprint or baseline.fingerprint)
    settings = AccuracyAwareSettings(maximal_absolute_accuracy_degradation=baseline.accuracy - THRESHOLD)
    store.write_settings(plan(module=reference.to_dict(), settings=settings, baseline=baseline).to_dict())
    return store, baseline.fingerprint


def order(rate, **search):
    return {**SPACE.algorithm("l2").parameters(rate), "search": {"requested_rate": rate, "epochs": 3, **search}}
