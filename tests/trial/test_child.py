"""Work in a process of its own: the same answers, and errors with their cause."""

import subprocess
import sys

import psutil
import pytest

from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError, ModuleError, TrialError
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace
from autocompress.testing import CurveModule
from autocompress.trial.child import IN_CHILD, end_process, measure_in_child, refuse_in_child
from autocompress.trial.tasks import measure_baseline
from tests import curve_modules as modules


def space(algorithm="l2", **layers):
    generator = AutoCompressionSearchSpaceGenerator()
    entry = {"sparsity": {"_type": "uniform", "_value": [0, 0.9]}, **(layers or {"op_names": ["hidden"]})}
    generator.add_config(algorithm, [entry])
    return SearchSpace.parse(generator.dumps())


class WithHoldout(CurveModule):
    @classmethod
    def holdout_evaluator(cls):
        return lambda model: 0.88


@pytest.mark.slow
def test_the_child_measures_the_same(tmp_path):
    reference = ModuleReference.of(modules.Knee)
    there = measure_in_child(reference.to_dict(), space().wire, tmp_path)
    here = measure_baseline(modules.Knee, space())
    assert (there.accuracy, there.measurement, there.fingerprint) == (here.accuracy, here.measurement, here.fingerprint)


@pytest.mark.slow
def test_the_source_is_that_of_the_file_that_was_named(tmp_path):
    """Which may import the class from another one: it is what is loaded again."""
    (tmp_path / "names_it.py").write_text("from tests.curve_modules import Knee\n")
    reference = ModuleReference.parse(f"{tmp_path / 'names_it.py'}:Knee")
    there = measure_in_child(reference.to_dict(), space().wire, tmp_path)
    assert there.fingerprint == reference.fingerprint() != ModuleReference.of(modules.Knee).fingerprint()


@pytest.mark.slow
def test_the_child_carries_errors_with_their_cause(tmp_path):
    reference = ModuleReference.of(modules.Knee)
    with pytest.raises(ConfigError, match="no layer of type 'Conv2d'") as caught:
        measure_in_child(reference.to_dict(), space(op_types=["Conv2d"]).wire, tmp_path)
    assert isinstance(caught.value.__cause__, TrialError)
    assert "Traceback" in caught.value.__cause__.traceback


def test_a_child_that_dies_is_told(tmp_path):
    module = tmp_path / "dies.py"
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    reference = {"file": str(module), "name": "dies", "root": str(tmp_path), "class_name": "X"}
    with pytest.raises(TrialError, match="the process that was to measure the model was killed by signal 9"):
        measure_in_child(reference, space().wire, tmp_path)


def test_a_script_that_launches_while_it_is_imported_is_refused(monkeypatch):
    refuse_in_child("a search must not be launched")
    monkeypatch.setenv(IN_CHILD, "1")
    with pytest.raises(ModuleError, match=r'must not be launched while a trial loads .*__name__ == "__main__"'):
        refuse_in_child("a search must not be launched")


def test_a_process_and_its_children_are_ended():
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {stubborn!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    parent.stdout.readline()
    (child,) = psutil.Process(parent.pid).children()
    end_process(psutil.Process(parent.pid), patience=1)
    parent.wait(10)
    parent.stdout.close()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
