"""A process that has imported what trials need and forks one for each: it begins in 0.05 s instead of 3.

It runs no operator of PyTorch, opens no device and does not load the user's module, so that a fork is as good as a
fresh interpreter. After multiprocessing's forkserver, which would import the launching script as well.

A request is one byte with file descriptors: where the process id and the exit code go, standard output, standard error,
results, and a file with the rest as JSON. Requests come from the launching process through the standard input, and from
processes that another program has started for us through a listening socket.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import setproctitle

from autocompress.errors import TrialError
from autocompress.trial.process import FORK_SERVER, PIPE, TRIAL, ForkedProcess, Handle, start_command

DESCRIPTORS = 5
"""With each request to the server: for the process id and exit code, output, errors, results, and the request."""

_IMPORT = b"i"
"""A request to import, instead of one to fork."""


_END_SECONDS = 10.0


class ForkServer:
    """Starts trials, and other programs of ours, by forking. A context: the server ends with it, its forks go on.

    Forking is for Linux; elsewhere system libraries do not survive it, and each is a fresh interpreter. A server that
    was killed is replaced, and one whose environment has changed in what libraries read when they are imported.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._environment: dict[str, str] = {}

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int) -> Handle:
        """Implements `Starter`; TrialError where the server cannot be started."""
        return self.start(TRIAL, arguments, environment, (output, output, results))

    def start(
        self, program: str, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
    ) -> Handle:
        """Start a program.

        Args:
            program: name of its module.
            arguments: of its `main`.
            environment: its environment variables.
            descriptors: its standard output, its standard error, and where its results go.

        Raises:
            TrialError: the server cannot be started.
        """
        if sys.platform != "linux":
            return start_command(program, arguments, environment, descriptors)
        with request_file(program, arguments, environment) as request:
            forked = self._forked([*descriptors, request]) or self._forked([*descriptors, request])
        if forked is None:
            raise TrialError("the process that starts trials ended; see its output")
        return forked

    def address(self, preload: Sequence[str] = ()) -> dict[str, str]:
        """Environment variables by which `python -m autocompress.trial`, started elsewhere, is forked here.

        Args:
            preload: modules that it will import.
        """
        if sys.platform != "linux":
            return {}
        with self._lock, memory_file(preload) as names:
            socket.send_fds(self._running(), [_IMPORT], [names])
            assert self._folder is not None
            return {FORK_SERVER: f"{self._folder.name}/socket"}

    def close(self) -> None:
        """End the server; what it has forked goes on. Another use starts another one."""
        with self._lock:
            server = self._server
            self._end()
            if server is not None:
                try:
                    server.wait(_END_SECONDS)
                except subprocess.TimeoutExpired:  # it is stopped, or still imports, or what it has forked goes on
                    server.kill()
                    server.wait()

    def _forked(self, descriptors: Sequence[int]) -> ForkedProcess | None:
        os.lseek(descriptors[-1], 0, os.SEEK_SET)
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            requests, server = self._running(), self._server
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(requests, [b"."], [theirs.fileno(), *descriptors])
        forked = ForkedProcess.from_pipe(ours)
        with self._lock:
            if forked is None and self._server is server:
                self._end()
        return forked

    def _running(self) -> socket.socket:
        environment = {name: value for name, value in os.environ.items() if _READ_AT_IMPORT.match(name)}
        is_there = self._server is not None and self._server.poll() is None and environment == self._environment
        if self._requests is None or not is_there:
            self._end()
            self._environment = environment
            self._folder = tempfile.TemporaryDirectory(prefix="autocompress-")  # only its owner may enter it
            self._requests, theirs = socket.socketpair()
            with theirs, socket.socket(socket.AF_UNIX) as listening:
                listening.bind(f"{self._folder.name}/socket")
                listening.listen(64)
                command = [sys.executable, "-m", "autocompress.trial.forkserver", str(listening.fileno())]
                self._server = subprocess.Popen(
                    command, stdin=theirs.fileno(), pass_fds=(listening.fileno(),), start_new_session=True
                )
        return self._requests

    def _end(self) -> None:
        """Close what the server reads from: it ends when what it has forked has ended."""
        if self._requests is not None:
            self._requests.close()
        if self._folder is not None:
            self._folder.cleanup()
        self._requests = self._server = self._folder = None


_READ_AT_IMPORT = re.compile("ATEN|CUDA|GOMP|KMP|LD_|MALLOC|MKL|NVIDIA|OMP|OPENBLAS|PYTHON|TORCH")
"""Environment variables that Python, torch and numpy read once."""
_shared = ForkServer()


def fork_server() -> ForkServer:
    """The server of this process, which lasts as long as it."""
    return _shared


@atexit.register
def _close() -> None:
    _shared.close()


def _after_fork() -> None:
    global _shared
    _shared = ForkServer()  # the other one is the parent's


os.register_at_fork(after_in_child=_after_fork)


def request_file(
    program: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> contextlib.AbstractContextManager[int]:
    """Descriptor of a request, which goes to the server beside its other descriptors."""
    place = {"directory": str(Path.cwd()), "environment": {**environment}}
    return memory_file({"name": program, "arguments": [*arguments], **place})


@contextlib.contextmanager
def memory_file(content: Any) -> Iterator[int]:
    """Descriptor of a file in memory that holds JSON."""
    descriptor = os.memfd_create("request")
    try:
        os.write(descriptor, json.dumps(content).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


_IMPORTS = (
    "torch",
    "torch._dynamo",
    "torch.utils.flop_counter",
    "torch_pruning",
    "numpy.ma",
    "autocompress.trial.__main__",
    "autocompress.trial.process",
    "autocompress.trial.run",
    "autocompress.trial.tasks",
    "autocompress.compression.pruning.filters",
)


def main(listening: int) -> None:
    """Serve the socket that is the standard input, and the one that listens; each trial runs and ends in here."""
    setproctitle.getproctitle()  # it looks for the place of titles, which a change of the environment hides
    requests, clients = socket.socket(fileno=os.dup(0)), socket.socket(fileno=listening)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in _IMPORTS:
        importlib.import_module(name)
    _settle()
    program = _Server(requests, clients).serve()
    code = 0 if program is None else program.run()
    # An interpreter's end without the taking apart of all modules, which takes 0.7 s; multiprocessing's children do so.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _settle() -> None:
    """Freeze this memory for the forks to share: no garbage collection in it, no destruction of torch's operators."""
    gc.collect()
    gc.freeze()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False


@dataclass(frozen=True)
class _Program:
    """What a fork is to run: `python -m NAME ARGUMENTS` in a directory, with an environment."""

    name: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]

    def run(self) -> int:
        """Set up what a fresh interpreter would have, and run it; the exit code."""
        os.environ.clear()
        os.environ.update(self.environment)
        sys.path[0] = self.directory
        os.chdir(self.directory)
        package = self.name.removesuffix(".__main__")
        setproctitle.setproctitle(f"{sys.executable} -m {package} {' '.join(self.arguments)}")
        code: int | None = importlib.import_module(self.name).main(self.arguments)
        return code or 0


class _Server:
    """Forks for each request, and reports each child's exit code; a client's child ends with the client."""

    def __init__(self, requests: socket.socket, listening: socket.socket) -> None:
        self._requests, self._listening = requests, listening
        self._status_pipes: dict[int, int] = {}
        self._clients: dict[int, socket.socket] = {}  # by the child that was forked for it
        self._woken, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> _Program | None:
        """The program, in a fork; None in the server, when the launching process and all children have ended."""
        self._waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker.fileno())
        for readable in (self._requests, self._listening, self._woken):
            self._selector.register(readable, selectors.EVENT_READ)
        is_open = True
        while is_open or self._status_pipes:
            for key, _ in self._selector.select():
                source: Any = key.fileobj
                if source is self._woken:
                    self._report_ends()
                elif key.data is not None:
                    self._kill(key.data)  # its client has gone
                else:
                    connection = self._accepted() if source is self._listening else None
                    program, is_open = self._serve(connection or source, connection, is_open)
                    if program is not None:
                        return program
        return None

    def _accepted(self) -> socket.socket:
        connection, _ = self._listening.accept()
        connection.settimeout(5)
        return connection

    def _serve(
        self, source: socket.socket, client: socket.socket | None, is_open: bool
    ) -> tuple[_Program | None, bool]:
        """Serve one request: the program, in a fork; whether the launching process is there."""
        try:
            message, descriptors, _, _ = socket.recv_fds(source, 1, DESCRIPTORS)
        except OSError:
            message, descriptors = b"", []
        if message == _IMPORT:
            self._import(*descriptors)
            return None, is_open
        if message and len(descriptors) == DESCRIPTORS:
            return self._forked(client, *descriptors), is_open
        if client is not None:
            client.close()
            return None, is_open
        for end in (self._requests, self._listening):
            self._selector.unregister(end)
            end.close()
        return None, False

    def _forked(
        self, client: socket.socket | None, status: int, output: int, errors: int, results: int, request: int
    ) -> _Program | None:
        with os.fdopen(request, "rb") as file:
            received: dict[str, Any] = json.loads(file.read())
        child = os.fork()
        if not child:
            self._leave(status, output, errors)
            received["environment"][PIPE] = str(results)
            return _Program(**received)
        self._status_pipes[child] = status
        if client is not None:
            self._clients[child] = client
            self._selector.register(client, selectors.EVENT_READ, child)
        _report(status, child)
        for each in (output, errors, results):
            os.close(each)
        return None

    def _import(self, names: int) -> None:
        with os.fdopen(names, "rb") as file:
            for name in json.loads(file.read()):
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
        _settle()

    def _leave(self, status: int, output: int, errors: int) -> None:
        """Close in a fork what is the server's, and take the standard descriptors of its request."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for end in (self._requests, self._listening, self._woken, self._waker, *self._clients.values()):
            end.close()
        for each in (status, *self._status_pipes.values()):
            os.close(each)
        os.setsid()
        for given, standard in ((output, 1), (errors, 2)):
            os.dup2(given, standard)
            os.close(given)

    def _kill(self, child: int) -> None:
        """Kill a child whose client has gone, as it would have gone with it."""
        if child in self._clients:  # it has not ended in the meantime
            self._forget(child)
            os.kill(child, signal.SIGKILL)

    def _forget(self, child: int) -> None:
        client = self._clients.pop(child, None)
        if client is not None:
            self._selector.unregister(client)
            client.close()

    def _report_ends(self) -> None:
        self._woken.recv(4096)
        for child in list(self._status_pipes):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                status_pipe = self._status_pipes.pop(child)
                _report(status_pipe, os.waitstatus_to_exitcode(status))
                os.close(status_pipe)
                self._forget(child)


def _report(status_pipe: int, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the launcher has gone; the trial's record counts
        os.write(status_pipe, f"{number}\n".encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
