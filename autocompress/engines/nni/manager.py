"""NNI's manager process: how it is launched, the files that hold its address, and the remote machines it reaches."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import secrets
import shlex
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from nni.experiment import ExperimentConfig, launcher, rest
from nni.tools.nnictl.config_utils import Experiments
from nni.tools.nnictl.constants import NNI_HOME_DIR

from autocompress.errors import ConfigError, EngineError
from autocompress.store import ExperimentDirectory
from autocompress.store.artefacts import Artefacts
from autocompress.trial.child import end_process
from autocompress.trial.forkserver import fork_server

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_directory(path: Path) -> None:
    """Create a directory, or restrict an existing one, so that only its owner can enter.

    The process' umask is left alone, as other threads may write files too.
    """
    try:
        path.mkdir(mode=stat.S_IRWXU, parents=True, exist_ok=True)
        _close(path)
    except OSError as error:
        raise EngineError(f"NNI's files must be in a directory that only you can read; {path}: {error}") from error


def make_private_file(path: Path, content: bytes = b"") -> Path:
    """Create a file, or restrict an existing one, so that only its owner can read it."""
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IRUSR | stat.S_IWUSR)
        except FileExistsError:
            _close(path)
        else:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except OSError as error:
        raise EngineError(f"NNI's files must be ones that only you can read; {path}: {error}") from error
    return path


def _close(path: Path) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & _OTHERS:
        path.chmod(mode & ~_OTHERS)


DEFAULT_PORT = 8080
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_MAIN = "nni_node/main.js"
_IMPORTED_BY_NNI = ("pandas", "scipy.spatial", "scipy.stats")
"""What takes long of `import nni`; the rest of it reads the trial's environment."""
_PORTS = 5
"""So many ports may be taken by others between the look at them and the manager's start."""
_ADDRESS_IN_USE = "listen EADDRINUSE: address already in use 127.0.0.1"
_HOOK = Path(__file__).with_name("manager_hook.js")


@dataclass
class Manager:
    """A running manager."""

    process: subprocess.Popen[bytes]  # its process
    port: int  # the port it listens on
    url_prefix: str  # the random path before all its pages and its REST interface

    @property
    def url(self) -> str:
        """The web page."""
        return f"http://127.0.0.1:{self.port}/{self.url_prefix}/oview"

    @property
    def tuner_channel(self) -> str:
        """Where the tuner connects."""
        return self.tuner_channel_of(self.port, self.url_prefix)

    @staticmethod
    def tuner_channel_of(port: int, url_prefix: str) -> str:
        """The same before the manager runs; NNI compares it character by character."""
        return f"ws://localhost:{port}/{url_prefix}/tuner"

    def get(self, path: str) -> Any:
        """The answer of its REST interface."""
        return rest.get(self.port, path, self.url_prefix)

    def require_alive(self) -> None:
        """Check that the process is running; EngineError says how it ended."""
        code = self.process.poll()
        if code is not None:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            raise EngineError(f"NNI's manager (process {self.process.pid}) {how}")

    def stop(self) -> None:
        """Stop the manager, by its REST interface or else by a signal. Running trials are interrupted first."""
        with contextlib.suppress(requests.RequestException, subprocess.TimeoutExpired):
            rest.delete(self.port, "/experiment", self.url_prefix)
            self.process.wait(_STOP_SECONDS)
        end_process(psutil.Process(self.process.pid) if self.process.poll() is None else None)
        self.process.wait()


def new_url_prefix() -> str:
    """A path of 128 random bits."""
    return secrets.token_hex(16)


class PortTakenError(EngineError):
    """Another process listens on the port of a web page."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(f"the port must be free; port {port} on 127.0.0.1 is taken ({reason}): give another one")


def require_free_port(port: int) -> None:
    """Check that nothing listens on the port; PortTakenError if something does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTakenError(port, str(error.strerror)) from error


def default_port() -> int:
    """NNI's own port, or a free one where that is taken."""
    try:
        require_free_port(DEFAULT_PORT)
    except EngineError:
        return free_port()
    return DEFAULT_PORT


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch_on_free_port(launch: Callable[[int], Manager]) -> Manager:
    """Launch a manager on NNI's own port or a free one; again where another process takes that meanwhile."""
    for _ in range(_PORTS):
        with contextlib.suppress(PortTakenError):
            return launch(default_port())
    return launch(free_port())


def start_manager(arguments: launcher.NniManagerArgs, log_directory: Path, *, over_ssh: bool = False) -> Manager:
    """Start the manager and wait up to a minute until it answers; its output goes to a private log."""
    require_free_port(arguments.port)
    make_private_directory(log_directory)
    log = make_private_file(log_directory / "manager.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            _command(arguments),
            stdout=output,
            stderr=output,
            cwd=_node_directory(),
            env=_environment(arguments, over_ssh),
            start_new_session=True,
        )
    manager = Manager(process, arguments.port, arguments.url_prefix or "")
    try:
        _wait_until_it_answers(manager)
    except EngineError as error:
        tail = log.read_text(errors="replace")[-2000:].strip()
        if f"{_ADDRESS_IN_USE}:{arguments.port}\n" in tail:
            raise PortTakenError(arguments.port, "by a process that was started at the same time") from error
        raise EngineError(f"{error}; its output: {tail or '(none)'}") from error
    return manager


def find_manager(experiment_id: str, working_directory: Path) -> psutil.Process | None:
    """The running manager of an experiment, if any: it outlives a launcher that was killed.

    One that runs in another directory, which is still there, is of a copy of the experiment.
    """
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []  # of others it may be anything, or not be readable
        given = dict(itertools.pairwise(command))
        if given.get("--experiment-id") == experiment_id and any(each.endswith(_MAIN) for each in command):
            place = Path(given.get("--experiments-directory", working_directory))
            if place == working_directory or not place.exists():
                return process
    return None


def _node_directory() -> Path:
    import nni_node  # here: it is data, found by import

    return Path(nni_node.__path__[0])


def _command(arguments: launcher.NniManagerArgs) -> list[str]:
    node = _node_directory() / "node"
    main = _node_directory().parent / _MAIN
    public = copy.copy(arguments)  # all users can read a command line: the hook adds what is secret
    public.url_prefix = public.tuner_command_channel = None
    return [str(node), "--max-old-space-size=4096", "--trace-uncaught", str(main), *public.to_command_line_args()]


def _environment(arguments: launcher.NniManagerArgs, over_ssh: bool) -> dict[str, str]:
    inherited = os.environ.get("NODE_OPTIONS", "")
    remote = {"AUTOCOMPRESS_OVER_SSH": "1"} if over_ssh else {}
    hook = {"NODE_OPTIONS": f'{inherited} --require "{_HOOK}"'.strip()}
    prefix = {"AUTOCOMPRESS_URL_PREFIX": arguments.url_prefix or ""}
    forking = {} if over_ssh or arguments.action == "view" else fork_server().address(_IMPORTED_BY_NNI)
    return {**os.environ, **hook, **prefix, **remote, **forking}


def _wait_until_it_answers(manager: Manager) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        manager.require_alive()
        with contextlib.suppress(requests.RequestException):
            manager.get("/check-status")
            return
        time.sleep(0.1)
    raise EngineError(f"NNI's manager did not answer on port {manager.port} within {_START_SECONDS:g} seconds")


def launch_manager(action: str, experiment_id: str, config: ExperimentConfig, port: int, debug: bool) -> Manager:
    """Start a manager ("create", "resume" or "view") and wait until it answers; `post_experiment` starts its work.

    Whatever breaks that off, Ctrl-C too, leaves no manager running.
    """
    prefix = new_url_prefix()
    arguments = launcher.NniManagerArgs(action, experiment_id, config, port, debug, False, prefix, None)
    home = Path(config.experiment_working_directory)
    try:
        manager = start_manager(arguments, home / experiment_id / "log", over_ssh=is_remote(config))
        _register(experiment_id, manager, config)
    except BaseException:
        end_process(find_manager(experiment_id, home))
        raise
    return manager


def make_logs_private(experiment_id: str, config: ExperimentConfig) -> None:
    """Create NNI's directory and log of an experiment before NNI does, readable by their owner only."""
    for directory in (home := Path(config.experiment_working_directory), home / experiment_id):
        make_private_directory(directory)
    make_private_directory(home / experiment_id / "log")
    make_private_file(home / experiment_id / "log" / "experiment.log")


def post_experiment(manager: Manager, config: ExperimentConfig) -> None:
    """Let the manager begin; it then waits for the tuner."""
    try:
        rest.post(manager.port, "/experiment", config.json(), manager.url_prefix)
    except requests.RequestException as error:
        answer = getattr(error.response, "text", "") if error.response is not None else ""
        raise EngineError(f"NNI's manager did not take the experiment: {answer or error}") from error


def _register(experiment_id: str, manager: Manager, config: ExperimentConfig) -> None:
    """Enter it into NNI's private list of experiments, for `nnictl` and the page."""
    home = Path(NNI_HOME_DIR)
    if not home.exists():
        make_private_directory(home)
    make_private_file(home / ".experiment", b"{}")
    Experiments().add_experiment(
        experiment_id,
        manager.port,
        int(time.time() * 1000),
        config.training_service.platform,
        config.experiment_name,
        pid=manager.process.pid,
        logDir=str(config.experiment_working_directory),
        prefixUrl=manager.url_prefix,
    )


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
