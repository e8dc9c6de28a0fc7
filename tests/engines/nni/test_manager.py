"""What is read of an experiment before NNI's manager starts."""

import base64
import contextlib
import json
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from nni.experiment import ExperimentConfig
from nni.experiment.config import RemoteMachineConfig

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.nni.configuration import canonical, canonical_json, complete_config
from autocompress.engines.nni.lifecycle import exists_in_nni, load_config, place_in_nni
from autocompress.engines.nni.manager import (
    Machines,
    Manager,
    default_port,
    find_manager,
    launch_manager,
    launch_on_free_port,
    make_logs_private,
    make_private_directory,
    make_private_file,
    new_url_prefix,
    remote_command,
    require_free_port,
)
from autocompress.errors import ConfigError, EngineError, StoreError
from autocompress.plan import ExperimentPlan, NniPlan
from autocompress.search_space import load_search_space
from autocompress.store import ExperimentDirectory
from tests import curve_modules
from tests.e2e.launch import search_space
from tests.e2e.support import free_port
from tests.written import plan


def mode(path):
    return path.stat().st_mode & 0o777


def test_what_is_made_is_its_owners(tmp_path):
    make_private_directory(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    path = make_private_file(tmp_path / "a" / "b" / "file", b"{}")
    assert (mode(path), path.read_bytes()) == (0o600, b"{}")


def test_what_is_there_is_closed_and_kept(tmp_path):
    """As an earlier version made it."""
    folder, path = tmp_path / "folder", tmp_path / "folder" / "file"
    folder.mkdir(mode=0o755)
    path.write_text("mine")
    path.chmod(0o664)
    make_private_directory(folder)
    make_private_file(path, b"{}")
    assert (mode(folder), mode(path), path.read_text()) == (0o700, 0o600, "mine")


def test_the_umask_is_left_alone(tmp_path):
    before = os.umask(0o022)
    try:
        make_private_file(tmp_path / "file")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_what_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match="only you can read"):
        make_private_directory(tmp_path / "file" / "x")
    with pytest.raises(EngineError, match="only you can read"):
        make_private_file(tmp_path / "none" / "x")


def test_a_taken_port_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=f"the port must be free; port {port} on 127.0.0.1 is taken"):
            require_free_port(port)
    require_free_port(port)


def test_the_default_port_is_a_free_one():
    require_free_port(default_port())


def launched(folder, name, launch):
    """A manager that was launched beside others, or why it was not."""
    config = ExperimentConfig("local", search_space={}, trial_command="true", trial_concurrency=1)
    config.tuner.name, config.experiment_working_directory = "Random", folder / name
    config = canonical(config)
    make_logs_private(name, config)
    try:
        return launch(partial(launch_manager, "create", name, config, debug=False))
    except EngineError as error:
        return error


def launched_at_once(folder, launch):
    names = ("one", "two")
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda name: launched(folder, name, launch), names))
    for each in found:
        if isinstance(each, Manager):
            each.stop()
    return found


@pytest.mark.slow
def test_two_that_are_launched_on_one_port_at_once(tmp_path, monkeypatch):
    port = free_port()
    found = launched_at_once(tmp_path / "given", lambda launch: launch(port))
    (refused,) = [each for each in found if isinstance(each, EngineError)]
    assert str(refused).startswith(f"the port must be free; port {port} on 127.0.0.1 is taken (")
    assert "node:" not in str(refused), "no stack of Node"
    monkeypatch.setattr("autocompress.engines.nni.manager.DEFAULT_PORT", port)
    ports = [each.port for each in launched_at_once(tmp_path / "any", launch_on_free_port)]
    assert port in ports
    assert len(set(ports)) == 2


def test_paths_are_not_repeated():
    assert len({new_url_prefix() for _ in range(100)}) == 100


@contextlib.contextmanager
def running(*arguments):
    """A process with a command line of that end."""
    code = "print('up', flush=True); import time; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_an_experiments_manager_is_found_by_its_id(tmp_path):
    main, others = "/anywhere/nni_node/main.js", tmp_path / "copy"
    others.mkdir()
    with running(main, "--experiment-id", "abc123", "--experiments-directory", tmp_path) as process:
        assert find_manager("abc123", tmp_path).pid == process.pid
        assert find_manager("abc12", tmp_path) is None
        assert find_manager("abc123", others) is None, "it is a copy's"
        assert find_manager("abc123", tmp_path / "moved") is None, "that is a copy too, as long as this one is there"
    with running(main, "--experiment-id", "abc123", "--experiments-directory", tmp_path / "gone") as process:
        assert find_manager("abc123", tmp_path).pid == process.pid, "the experiment has been moved"


@pytest.mark.parametrize(
    "arguments",
    [("--experiment-id",), ("--experiment-id", "abc123"), ("grep", "--experiment-id", "abc123", "main.js"), ("",)],
)
def test_command_lines_of_other_programs(arguments, tmp_path):
    with running(*arguments):
        assert find_manager("abc123", tmp_path) is None


class Exploit:
    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


def data_base(folder, *rows):
    path = folder / "abc" / "db" / "nni.sqlite"
    path.parent.mkdir(parents=True)
    base = sqlite3.connect(path)
    base.execute("create table ExperimentProfile (id text, params text, revision integer)")
    base.executemany("insert into ExperimentProfile values (?, ?, 0)", rows)
    base.commit()
    base.close()


def test_whether_nni_knows_an_experiment(tmp_path):
    assert not exists_in_nni("abc", tmp_path)
    assert not (tmp_path / "abc").exists(), "nothing is made by asking"
    data_base(tmp_path, ("abc", "{}"))
    assert exists_in_nni("abc", tmp_path)
    assert not exists_in_nni("other", tmp_path)


def test_what_the_data_base_holds_is_not_unpickled(tmp_path):
    """NNI's own reader runs it."""
    code = base64.b64encode(pickle.dumps(Exploit(tmp_path / "proof"))).decode()
    data_base(tmp_path, ("abc", f'{{"__nni_type__": "bytes:{code}"}}'))
    assert exists_in_nni("abc", tmp_path)
    assert not (tmp_path / "proof").exists()


def test_where_the_experiment_is_now_is_written_to_the_data_base(tmp_path):
    """To all revisions of it, and to nothing else; NNI starts trials by a copy of the command."""
    before, home = ExperimentConfig("local"), tmp_path / "now" / "nni"
    module, space = ModuleReference.of(curve_modules.Flat), load_search_space(search_space("l2"))
    complete_config(before, "abc", tmp_path / "before", module, space)
    old = canonical_json(before)
    first, second = json.dumps(old), json.dumps({**old, "maxTrialNumber": 4})
    data_base(home, ("abc", first), ("abc", second), ("other", first))
    _, config = load_config(
        plan(engine=NniPlan("abc", {"maxTrialNumber": None, **old})), ExperimentDirectory(home.parent)
    )
    for _ in range(2):
        place_in_nni("abc", config)
        with contextlib.closing(sqlite3.connect(home / "abc" / "db" / "nni.sqlite")) as base:
            texts = [text for _, text in base.execute("select id, params from ExperimentProfile")]
        assert [text.count(f"-m autocompress.trial {home.parent} --channel") for text in texts] == [2, 2, 0]
        assert [text.count(str(tmp_path / "before")) for text in texts] == [0, 0, first.count(str(tmp_path / "before"))]
        assert [json.loads(text).get("maxTrialNumber") for text in texts] == [None, 4, None]
    (home / "abc" / "db" / "nni.sqlite").write_text("no data base")
    with pytest.raises(EngineError, match="NNI's data base of experiment abc must be whole"):
        place_in_nni("abc", config)


def test_a_data_base_that_is_none(tmp_path):
    (tmp_path / "abc" / "db").mkdir(parents=True)
    (tmp_path / "abc" / "db" / "nni.sqlite").write_text("no data base")
    assert not exists_in_nni("abc", tmp_path)


def test_nnis_files_are_in_the_directory_wherever_it_is_now(tmp_path):
    store = ExperimentDirectory(tmp_path)
    config = {"trainingService": {"platform": "local"}, "experimentWorkingDirectory": "/etc"}
    found, read = load_config(plan(engine=NniPlan("abc", config)), store)
    assert (found, read.experiment_working_directory) == ("abc", str(tmp_path / "nni"))


@pytest.mark.parametrize(
    ("engine", "rule"),
    [
        ({"name": "optuna", "study": "s"}, "the experiment must be of the engine 'nni'; it is of 'optuna'"),
        ({"name": "nni", "id": "abc"}, "missing 1 required positional argument: 'config'"),
        ({"name": "nni", "id": "../../x", "config": {}}, "NNI's id must be of letters and digits; got '../../x'"),
        ({"name": "nni", "id": 3, "config": {}}, "id must be a string; got 3"),
        ({"name": "nni", "id": "abc", "config": {"no such": 1}}, "NNI does not accept the configuration"),
    ],
)
def test_plans_that_are_damaged(tmp_path, engine, rule):
    with pytest.raises(StoreError, match=rule):
        load_config(ExperimentPlan.from_dict({**plan().to_dict(), "engine": engine}), ExperimentDirectory(tmp_path))


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
