"""NNI's manager process, and the files that only their owner may read, as they contain its secret address."""

from __future__ import annotations

import contextlib
import copy
import os
import secrets
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
from nni.experiment import launcher, rest

from autocompress.errors import EngineError

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


def require_free_port(port: int) -> None:
    """Check that nothing listens on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EngineError(f"the port must be free; port {port} on 127.0.0.1 is taken ({error.strerror})") from error


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
            env=_environment(over_ssh, arguments.url_prefix or ""),
            start_new_session=True,
        )
    manager = Manager(process, arguments.port, arguments.url_prefix or "")
    try:
        _wait_until_it_answers(manager)
    except EngineError as error:
        end_process(psutil.Process(process.pid) if process.poll() is None else None)
        tail = log.read_text(errors="replace")[-2000:].strip()
        raise EngineError(f"{error}; its output: {tail or '(none)'}") from error
    return manager


def end_process(process: psutil.Process | None, patience: float = _STOP_SECONDS) -> None:
    """End a process and its children: SIGTERM, then SIGKILL after `patience` seconds."""
    if process is None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=patience)
        for straggler in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                straggler.kill()
        psutil.wait_procs(alive, timeout=5)


def find_manager(experiment_id: str) -> psutil.Process | None:
    """The running manager of an experiment, if any: it outlives a launcher that was killed."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "--experiment-id" in command and command[command.index("--experiment-id") + 1] == experiment_id:
            return process
    return None


def _node_directory() -> Path:
    import nni_node  # here: it is data, found by import

    return Path(nni_node.__path__[0])


def _command(arguments: launcher.NniManagerArgs) -> list[str]:
    node = _node_directory() / "node"
    main = _node_directory() / "main.js"
    public = copy.copy(arguments)  # all users can read a command line: the hook adds what is secret
    public.url_prefix = public.tuner_command_channel = None
    return [str(node), "--max-old-space-size=4096", "--trace-uncaught", str(main), *public.to_command_line_args()]


def _environment(over_ssh: bool, url_prefix: str) -> dict[str, str]:
    inherited = os.environ.get("NODE_OPTIONS", "")
    remote = {"AUTOCOMPRESS_OVER_SSH": "1"} if over_ssh else {}
    hook = {"NODE_OPTIONS": f'{inherited} --require "{_HOOK}"'.strip(), "AUTOCOMPRESS_URL_PREFIX": url_prefix}
    return {**os.environ, **hook, **remote}


def _wait_until_it_answers(manager: Manager) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        manager.require_alive()
        with contextlib.suppress(requests.RequestException):
            manager.get("/check-status")
            return
        time.sleep(0.1)
    raise EngineError(f"NNI's manager did not answer on port {manager.port} within {_START_SECONDS:g} seconds")
