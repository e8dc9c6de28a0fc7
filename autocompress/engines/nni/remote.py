"""Remote machines over SSH: files that trials need are copied there, and results are copied back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni.experiment import ExperimentConfig

from autocompress.errors import ConfigError, EngineError
from autocompress.store import ExperimentDirectory
from autocompress.store.artefacts import Artefacts

REMOTE = "remote"


@dataclass(frozen=True)
class _Directory:
    """An experiment's files on another machine, and the pattern of the folders where NNI keeps what trials print."""

    files: Artefacts
    outputs: str


class Machines:
    """The machines that an experiment's trials run on; nothing is copied where that is this one.

    Each has the experiment's directory, `~/.autocompress/<id>`, with the trials it has run and the checkpoints it was
    given. It is reached as NNI reaches it; its host key is not checked, as NNI's is not.
    """

    def __init__(self, store: ExperimentDirectory, others: Sequence[_Directory] = ()) -> None:
        self._store, self._others = store, others

    @classmethod
    def of(cls, config: ExperimentConfig, experiment_id: str, store: ExperimentDirectory) -> Machines:
        """The machines of a configuration."""
        if not is_remote(config):
            return cls(store)
        machines = config.training_service.machine_list
        return cls(store, [_connected(machine, experiment_id) for machine in machines])

    def prepare(self) -> None:
        """Copy the experiment's settings there."""
        for other in self._others:
            other.files.write(self._store.settings_path.name, self._store.settings_path.read_bytes())

    def push_checkpoint(self, key: str) -> None:
        """Copy a trial's checkpoint to machines that lack it, as another trial is to start from it."""
        for other in self._others:
            if not other.files.holds(key):
                other.files.push(key, self._store.trial(key).path)

    def fetch(self, key: str) -> None:
        """Copy the files of a trial back, if it has ended."""
        for other in self._others:
            if other.files.pull(key, self._store.trial(key).path):
                return

    def stderr_of(self, trial_id: str) -> str:
        """The standard error of a trial, by NNI's id."""
        name = f"{trial_id}/trial.stderr"
        texts = [text for other in self._others for text in other.files.texts(f"{other.outputs}/{name}")]
        return texts[-1].strip() if texts else ""


def is_remote(config: ExperimentConfig) -> bool:
    """Whether trials run over SSH."""
    return getattr(config.training_service, "platform", None) == REMOTE


def remote_command(config: ExperimentConfig, experiment_id: str, module_root: str, channel: str, python: str) -> str:
    """The trial command on other machines; it runs in a copy of the code directory.

    It uses the machines' common `python_path`, else this process' Python.
    """
    paths = {machine.python_path for machine in config.training_service.machine_list}
    if len(paths) != 1:
        raise ConfigError(f"python_path must be the same on all machines; got {sorted(map(str, paths))}")
    (path,) = paths
    code = Path(config.trial_code_directory).resolve()
    if not Path(module_root).is_relative_to(code):
        raise ConfigError(f"the module must be in trial_code_directory, which is brought there; {module_root} is not")
    arguments = [f"~/.autocompress/{experiment_id}", "--channel", channel]
    arguments += ["--module-root", Path(module_root).relative_to(code).as_posix()]
    interpreter = python if path is None else f"{path}/python"
    return shlex.join([interpreter, "-m", "autocompress.trial", *arguments])


def _connected(machine: Any, experiment_id: str) -> _Directory:
    import fsspec  # slow to import

    options = {"username": machine.user, "port": machine.port, "passphrase": machine.ssh_passphrase}
    if machine.password is not None:
        options["password"] = machine.password
    else:
        options["key_filename"] = str(Path(machine.ssh_key_file).expanduser())
    try:
        files = fsspec.filesystem("sftp", host=machine.host, skip_instance_cache=True, **options)
        home = files.ftp.normalize(".")
    except ImportError as error:
        raise ConfigError(f"trials on other machines need a package that is not installed: {error}") from error
    except Exception as error:  # sockets and SSH have errors of many kinds
        raise EngineError(f"{machine.user}@{machine.host}:{machine.port} cannot be reached: {error}") from error
    place = Artefacts(files, f"{home}/.autocompress/{experiment_id}", f"sftp://{machine.host}:{machine.port}")
    return _Directory(place, f"{home}/nni-experiments/{experiment_id}/environments/*/trials")
