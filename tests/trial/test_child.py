"""Work in a process of its own: the same answers, and errors with their cause."""

import contextlib
import logging
import subprocess
import sys

import psutil
import pytest

from autocompress.compression.module_loading import ModuleReference
from autocompress.errors import ConfigError, ModuleError, TrialError
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace
from autocompress.settings import AccuracyAwareSettings
from autocompress.testing import CurveModule
from autocompress.trial.child import (
    IN_CHILD,
    end_orphan,
    end_process,
    measure_in_child,
    refuse_in_child,
    verify_in_child,
)
from autocompress.trial.spec import trial_key
from autocompress.trial.tasks import measure_baseline
from tests import curve_modules as modules
from tests.trial.processes import THRESHOLD, begun, linux, order

LOGGER = logging.getLogger("tests.child")


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


LAUNCHER = """
import sys
from autocompress.store import ExperimentDirectory
from autocompress.trial.process import TrialProcess
from tests.trial.processes import order
process = TrialProcess(ExperimentDirectory(sys.argv[1]), "orphan", order(0.9, epochs=int(sys.argv[2])))
print(process._process.pid, flush=True)
next(process.results())
print("begun", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def orphaned(tmp_path):
    """A trial that has begun and whose launcher is killed: its directory, its process, the launcher's id."""
    started = []

    def orphan(epochs):
        store, fingerprint = begun(tmp_path / "experiment", modules.Slow)
        key = trial_key(fingerprint, order(0.9, epochs=epochs), THRESHOLD)
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(store.path), str(epochs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(launcher)
        started.append(psutil.Process(int(launcher.stdout.readline())))
        assert launcher.stdout.readline() == "begun\n"
        end_orphan(store.trial(key), LOGGER)  # its launcher is there: it is left to that
        assert store.trial(key).holder()["pid"] == started[1].pid
        launcher.kill()
        launcher.wait()
        return store.trial(key), started[1], launcher.pid

    yield orphan
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@pytest.mark.slow
@linux
def test_a_trial_that_has_lost_its_launcher_is_waited_for(orphaned, caplog):
    trial, process, launcher = orphaned(epochs=4)
    end_orphan(trial, LOGGER)
    assert trial.record().state == "completed"
    assert trial.record().epochs == 4
    (said,) = caplog.messages
    assert said.startswith(
        f"trial {trial.path.name} still runs in process {process.pid}, whose launcher (process {launcher})"
    )


@pytest.mark.slow
@linux
def test_one_that_does_nothing_is_ended(orphaned, caplog, monkeypatch):
    for name, seconds in (("_IDLE_SECONDS", 1.5), ("_SAVING_SECONDS", 0.5)):
        monkeypatch.setattr(f"autocompress.trial.child.{name}", seconds)
    trial, process, _ = orphaned(epochs=200)
    process.suspend()
    end_orphan(trial, LOGGER)
    assert trial.holder() is None
    assert trial.record() is None
    assert caplog.messages[1] == f"process {process.pid} hangs: it is ended, and trial {trial.path.name} runs again"


HANGS = """
import time
from autocompress.settings import AccuracyAwareSettings
from autocompress.testing import CurveModule

class Hangs(CurveModule):
    @classmethod
    def evaluator(cls):
        time.sleep(300)
"""


def hanging(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    return {"file": str(tmp_path / "hangs.py"), "name": "hangs", "root": str(tmp_path), "class_name": "Hangs"}


def test_measuring_has_a_limit(tmp_path):
    """That of a trial for the model, and as much for the algorithm."""
    settings = AccuracyAwareSettings(maximal_trial_seconds=0.75)
    message = r"the process that was to measure the model must end within 1\.5 s, by maximal_trial_seconds; it did not"
    with pytest.raises(TrialError, match=message) as caught:
        measure_in_child(hanging(tmp_path), space().wire, tmp_path, settings)
    assert "hangs.py" in caught.value.traceback


@pytest.mark.slow
def test_verifying_has_a_limit(tmp_path):
    save_checkpoint(modules.Knee.model(), tmp_path / "trial" / "checkpoint", modules.Knee.model())
    settings = AccuracyAwareSettings(maximal_trial_seconds=1.0)
    message = r"the process that was to verify the model must end within 2 s"
    with pytest.raises(TrialError, match=message) as caught:
        verify_in_child(hanging(tmp_path), tmp_path / "trial" / "checkpoint", 0.5, tmp_path, settings)
    assert "hangs.py" in caught.value.traceback


@pytest.mark.slow
def test_a_task_that_is_stopped_is_ended_from_outside(tmp_path, monkeypatch):
    monkeypatch.setattr("autocompress.trial.child.GRACE_SECONDS", 0.5)
    module = tmp_path / "stops.py"
    module.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n")
    reference = {"file": str(module), "name": "stops", "root": str(tmp_path), "class_name": "X"}
    with pytest.raises(TrialError, match="the process that was to measure the model must end within 8 s"):
        measure_in_child(reference, space().wire, tmp_path, AccuracyAwareSettings(maximal_trial_seconds=4.0))
