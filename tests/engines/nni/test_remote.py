"""Configurations of other machines; trials that run there are in `tests/e2e/test_remote.py`."""

import sys

import pytest
from nni.experiment import ExperimentConfig
from nni.experiment.config import RemoteMachineConfig

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.nni.configuration import complete_config
from autocompress.engines.nni.remote import Machines, remote_command
from autocompress.errors import ConfigError, EngineError
from autocompress.search_space import load_search_space
from autocompress.store import ExperimentDirectory
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.support import free_port


def remote(code, *python_paths, **machine):
    config = ExperimentConfig("remote")
    config.trial_code_directory = str(code)
    config.training_service.machine_list = [
        RemoteMachineConfig(host="127.0.0.1", user="me", python_path=path, **machine) for path in python_paths
    ]
    return config


def command(config, root):
    return remote_command(config, "abc", str(root), "channel:Channel", sys.executable)


def test_the_interpreter_is_named_in_full_and_the_module_is_found_in_the_code(tmp_path):
    there = command(remote(tmp_path, "/opt/bin"), tmp_path / "package")
    assert there == (
        "/opt/bin/python -m autocompress.trial '~/.autocompress/abc' --channel channel:Channel --module-root package"
    )
    assert command(remote(tmp_path, None), tmp_path).startswith(f"{sys.executable} -m autocompress.trial")


def test_what_cannot_be_run_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"python_path must be the same on all machines; got \['/a', '/b'\]"):
        command(remote(tmp_path, "/a", "/b"), tmp_path)
    with pytest.raises(ConfigError, match="the module must be in trial_code_directory, which is brought there; /else"):
        command(remote(tmp_path, None), "/elsewhere")


def test_a_machine_that_cannot_be_reached_is_told_before_anything_runs(tmp_path):
    key = tmp_path / "key"
    key.write_text("")
    config = remote(tmp_path, None, port=free_port(), ssh_key_file=str(key))
    with pytest.raises(EngineError, match=r"me@127\.0\.0\.1:\d+ cannot be reached"):
        Machines.of(config, "abc", ExperimentDirectory(tmp_path))


@pytest.mark.parametrize("platform", ["kubeflow", "frameworkcontroller", ["local", "remote"]])
def test_other_training_services_are_left_as_they_are(platform, tmp_path):
    config = ExperimentConfig(platform)
    module = ModuleReference.of(curve_modules.Flat)
    complete_config(config, "abc", tmp_path, module, load_search_space(search_space("l2")))
    assert config.training_service == ExperimentConfig(platform).training_service
    assert "-m autocompress.trial" in config.trial_command
    Machines.of(config, "abc", ExperimentDirectory(tmp_path)).prepare()  # nothing to be brought anywhere


def test_one_gpu_a_trial_is_passed_on(tmp_path):
    config = ExperimentConfig("local")
    config.trial_gpu_number = 1
    config.training_service.use_active_gpu = True
    complete_config(
        config, "abc", tmp_path, ModuleReference.of(curve_modules.Flat), load_search_space(search_space("l2"))
    )
    wire = config.json()
    assert wire["trialGpuNumber"] == wire["trainingService"]["trialGpuNumber"] == 1
    assert wire["trainingService"]["useActiveGpu"] is True
