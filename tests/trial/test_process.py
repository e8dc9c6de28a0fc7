"""A trial in a process of its own, seen from outside."""

import functools
import os
import signal
import tempfile
from pathlib import Path

from autocompress.compress.loading import ModuleReference
from autocompress.config import AccuracyAwareSettings, default_space
from autocompress.store import ExperimentDirectory
from autocompress.trial.child import measure_in_child
from autocompress.trial.key import trial_key
from autocompress.trial.process import End, TrialProcess
from tests import curve_modules

SPACE = default_space(["l2"])


@functools.lru_cache
def measured(module):
    with tempfile.TemporaryDirectory() as folder:
        return measure_in_child(ModuleReference.of(module).to_dict(), SPACE.wire, Path(folder)).to_dict()


def begun(directory, module, fingerprint=None):
    """An experiment's directory, its uncompressed model measured."""
    store, reference = ExperimentDirectory(directory), ModuleReference.of(module)
    store.path.mkdir()
    baseline = dict(measured(module))
    baseline["fingerprint"] = fingerprint or baseline["fingerprint"]
    settings = AccuracyAwareSettings().to_dict()
    store.write_settings({"module": reference.to_dict(), "threshold": 0.8, "baseline": baseline, "settings": settings})
    return store, baseline["fingerprint"]


def order(rate, **search):
    return {**SPACE.algorithm("l2").parameters(rate), "search": {"compression_rate": rate, "epochs": 3, **search}}


def test_results_come_as_they_are_made_and_the_record_is_there(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Never)
    parameters = order(0.5)
    key = trial_key(fingerprint, parameters, 0.8)
    process = TrialProcess(store, key, parameters)
    results = list(process.results())
    assert process.wait() == End()
    assert [result["epoch"] for result in results] == [1, 2, 3]
    assert store.trial(key).record().requested_rate == 0.5
    assert (store.trial(key).path / "output.txt").exists()


def test_the_key_is_of_the_source_that_the_experiment_began_with(tmp_path):
    store, _ = begun(tmp_path / "experiment", curve_modules.Flat, fingerprint="of an earlier text")
    key = trial_key("of an earlier text", order(0.5), 0.8)
    process = TrialProcess(store, key, order(0.5))
    assert list(process.results())
    assert process.wait() == End()
    assert store.trial(key).record().state == "completed"


def test_ends_are_told_apart(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.RaisesAlways)
    key = trial_key(fingerprint, order(0.5), 0.8)
    failed = TrialProcess(store, key, order(0.5))
    list(failed.results())
    assert "RuntimeError: the trainer is broken" in failed.wait().crash
    assert store.trial(key).record().state == "failed"
    killed = TrialProcess(store, "killed", order(0.6))
    os.kill(killed._process.pid, signal.SIGKILL)
    assert list(killed.results()) == []
    assert killed.wait().killed.startswith("the trial's process was killed by SIGKILL")


def test_an_interrupted_trial_saves_its_state(tmp_path):
    store, fingerprint = begun(tmp_path / "experiment", curve_modules.Slow)
    parameters = order(0.9, epochs=200)
    key = trial_key(fingerprint, parameters, 0.8)
    process = TrialProcess(store, key, parameters)
    for _ in process.results():
        process.interrupt()
    assert process.wait() == End()
    assert store.trial(key).record().state == "stopped"
