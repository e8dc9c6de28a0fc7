"""NNI's trials on another machine, over SSH, as a user would configure it."""

import pytest
import torch
from nni.experiment.config import RemoteMachineConfig

from autocompress import AutoCompressionExperiment
from autocompress.compression.module_loading import ModuleReference
from tests.e2e.launch import search_space
from tests.e2e.machines import PYTHON_PATH, machine, require_machines
from tests.e2e.study import FEW
from tests.e2e.support import free_port
from tests.engines.optuna.test_study import told

pytestmark = pytest.mark.slow

MODULE = """
import os
from pathlib import Path

from autocompress.testing import CurveModule, cliff


class Shipped(CurveModule):
    curve = staticmethod(cliff(0.62, epochs_needed=2))

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        if log := os.environ.get("TRAINED_BY"):
            with Path(log).open("a") as file:
                file.write(f"{__file__}\\n")


class Broken(CurveModule):
    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        if cls.rate(model) > 0:
            raise RuntimeError("broken over there")
        super().train_epoch(model, optimizer, criterion, epoch)
"""


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "shipped.py").write_text(MODULE)
    return folder


def experiment_of(code, name, platform, directory):
    experiment = AutoCompressionExperiment(
        ModuleReference.parse(f"{code}/shipped.py:{name}"), platform, directory=directory
    )
    experiment.config.search_space = search_space("l2")
    experiment.config.tuner.class_args = FEW
    return experiment


def on(there, experiment):
    experiment.config.training_service.machine_list = [
        RemoteMachineConfig(
            host=there.host, port=there.port, user="root", ssh_key_file=str(there.key), python_path=PYTHON_PATH
        )
    ]
    return experiment


def test_another_machine_finds_the_same(tmp_path, code):
    require_machines()
    local = experiment_of(code, "Shipped", "local", tmp_path / "local")
    local.run(free_port())
    local.stop()
    log = tmp_path / "trained.log"
    folder = tmp_path / "machine"
    folder.mkdir()
    with machine(folder, TRAINED_BY=log) as there:
        remote = on(there, experiment_of(code, "Shipped", "remote", tmp_path / "remote"))
        remote.run(free_port())
        remote.stop()
        assert {line.startswith(str(there.home)) for line in log.read_text().splitlines()} == {True}
    assert told(remote.result) == told(local.result)
    assert remote.result.verdict == local.result.verdict
    one, other = (each.result.load_model().state_dict() for each in (remote, local))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_what_fails_there_is_told_here(tmp_path, code):
    require_machines()
    folder = tmp_path / "machine"
    folder.mkdir()
    with machine(folder) as there:
        remote = on(there, experiment_of(code, "Broken", "remote", tmp_path / "remote"))
        remote.run(free_port())
        remote.stop()
    first, failed = remote.result.records
    assert (first.requested_rate, first.state) == (0.55, "completed"), "within the budget without training"
    assert (failed.requested_rate, failed.state, failed.error) == (0.6, "failed", "RuntimeError: broken over there")
    assert str(there.home) in remote.result.directory.trial(failed.key).traceback()
