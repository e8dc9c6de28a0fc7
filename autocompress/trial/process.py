"""Start trials' processes, forked from a server that has imported everything or fresh, and exchange data with them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autocompress.errors import TrialError
from autocompress.store import ExperimentDirectory, killed_message
from autocompress.store.directory import read_end


class Handle(Protocol):
    """A started process."""

    pid: int

    def wait(self) -> int:
        """Wait for its end; its exit code, or the negative number of the signal that killed it."""


class Starter(Protocol):
    """Starts `python -m autocompress.trial ARGUMENTS`."""

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int) -> Handle:
        """Start one; its output goes to the descriptor `output`, its results to the descriptor `results`."""


def fresh_interpreter(
    arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int
) -> subprocess.Popen[bytes]:
    """Start it as a command. Implements `Starter`."""
    return subprocess.Popen(
        [sys.executable, "-m", "autocompress.trial", *arguments],
        env={**environment, PIPE: str(results)},
        pass_fds=(results,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


class ForkServer:
    """Starts trials by forking. A context: the server ends with it, running trials go on.

    Forking is for Linux; elsewhere system libraries do not survive it, and each trial is a fresh interpreter.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int) -> Handle:
        """Implements `Starter`; TrialError where the server cannot be started."""
        if sys.platform != "linux":
            return fresh_interpreter(arguments, environment, output, results)
        request = os.memfd_create("request")
        os.write(request, json.dumps({"arguments": [*arguments], "environment": {**environment}}).encode())
        try:
            # A server that was killed is replaced, once.
            forked = self._forked(output, results, request) or self._forked(output, results, request)
        finally:
            os.close(request)
        if forked is None:
            raise TrialError("the process that starts trials ended; see its output")
        return forked

    def _forked(self, output: int, results: int, request: int) -> ForkedProcess | None:
        os.lseek(request, 0, os.SEEK_SET)
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            requests, server = self._running(), self._server
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(requests, [b"."], [theirs.fileno(), output, results, request])
        forked = ForkedProcess.from_pipe(ours)
        with self._lock:
            if forked is None and self._server is server:
                self._end()
        return forked

    def _running(self) -> socket.socket:
        if self._requests is None or self._server is None or self._server.poll() is not None:
            self._end()
            self._requests, theirs = socket.socketpair()
            command = [sys.executable, "-m", "autocompress.trial.forkserver"]
            with theirs:
                self._server = subprocess.Popen(command, stdin=theirs.fileno(), start_new_session=True)
        return self._requests

    def _end(self) -> None:
        if self._requests is not None and self._server is not None:
            self._requests.close()
            self._server.wait()
        self._requests = self._server = None


class ForkedProcess:
    """A forked trial. Implements `Handle`."""

    def __init__(self, pid: int, status: socket.SocketIO) -> None:
        self.pid = pid
        self._status = status

    @classmethod
    def from_pipe(cls, pipe: socket.socket) -> ForkedProcess | None:
        """The process whose id comes through the socket; None if that is closed without."""
        with pipe:
            status = pipe.makefile("rb", buffering=0)
        line = status.readline()
        if line:
            return cls(int(line), status)
        status.close()
        return None

    def wait(self) -> int:
        """Its exit code; that of SIGKILL if the server was killed before it reported one."""
        with self._status:
            line = self._status.readline()
        return int(line) if line else -signal.SIGKILL


_CHANNEL = "autocompress.trial.process:PipeChannel"


class TrialProcess:
    """A running trial.

    Its output goes to `trials/<key>/output.txt`. Ctrl-C in the terminal does not reach it: call `interrupt`.
    """

    def __init__(
        self,
        store: ExperimentDirectory,
        key: str,
        parameters: Mapping[str, Any],
        start: Starter = fresh_interpreter,
    ) -> None:
        self._ended = False
        self._output = store.trial(key).path / "output.txt"
        self._output.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        self._results = os.fdopen(reading, "r", encoding="utf-8")
        try:
            with self._output.open("wb") as output:
                self._process = start(
                    [str(store.path), "--channel", _CHANNEL],
                    {**os.environ, PARAMETERS: json.dumps(parameters)},
                    output.fileno(),
                    writing,
                )
        finally:
            os.close(writing)

    def results(self) -> Iterator[dict[str, Any]]:
        """Each intermediate result as it arrives, until the process ends."""
        with self._results:
            for line in self._results:
                yield json.loads(line)

    def interrupt(self) -> None:
        """Let it save its state and end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self._ended:
                os.kill(self._process.pid, number)

    def wait(self) -> ProcessEnd:
        """Wait for its end."""
        code = self._process.wait()
        self._ended = True
        if code < 0:
            return ProcessEnd(killed=killed_message(signal.Signals(-code).name))
        printed = read_end(self._output).strip()
        return ProcessEnd(crash=printed or f"the trial ended with code {code}") if code else ProcessEnd()


@dataclass(frozen=True)
class ProcessEnd:
    """How a trial's process ended."""

    crash: str | None = None  # what it printed, where it ended with an error by itself
    killed: str | None = None  # by which signal, where it was


class Reporter(Protocol):
    """Receives the results of a trial; these methods discard them."""

    def report_epoch(self, result: dict[str, Any]) -> None:  # noqa: ARG002
        """An intermediate result: `accuracy` (evaluator's unit), `accuracy_margin`, `epoch` (from 1).

        `default` is the score as far as it is known: a model within the budget counts with its requested rate.
        """
        return

    def report_final(self, result: dict[str, Any]) -> None:  # noqa: ARG002
        """The final result: `default` is the score, the others are the fields of `TrialRecord` with these names."""
        return


class Channel(Reporter, Protocol):
    """A reporter that also has the trial's parameters."""

    def parameters(self) -> dict[str, Any]:
        """The trial's JSON object."""
        ...


class NullReporter(Reporter):
    """Discards all results."""


PARAMETERS = "AUTOCOMPRESS_PARAMETERS"
"""Environment variable: the trial's JSON object."""

PIPE = "AUTOCOMPRESS_PIPE"
"""Environment variable: number of the file descriptor that results go to."""


class PipeChannel(Reporter):
    """Channel to `process.TrialProcess`: parameters come from the environment, results go to a pipe."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.pop(PIPE))

    def parameters(self) -> dict[str, Any]:
        """The trial's JSON object."""
        parameters: dict[str, Any] = json.loads(os.environ.pop(PARAMETERS))
        return parameters

    def report_epoch(self, result: dict[str, Any]) -> None:
        """Write a line. If the reader has gone, the trial continues: its record on disk counts."""
        try:
            os.write(self._pipe, (json.dumps(result) + "\n").encode())
        except BrokenPipeError:
            return
