"""Start trials' processes, forked from a server that has imported everything or fresh, and exchange data with them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autocompress.store import ExperimentDirectory, killed_message
from autocompress.store.directory import read_end
from autocompress.store.locks import identity_of, is_running, this_process


class Handle(Protocol):
    """A started process."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, or the negative number of the signal that killed it; None while it runs."""


class Starter(Protocol):
    """Starts `python -m autocompress.trial ARGUMENTS`."""

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int) -> Handle:
        """Start one; its output goes to the descriptor `output`, its results to the descriptor `results`."""


def fresh_interpreter(
    arguments: Sequence[str], environment: Mapping[str, str], output: int, results: int
) -> subprocess.Popen[bytes]:
    """Start it as a command. Implements `Starter`."""
    return start_command(TRIAL, arguments, environment, (output, output, results))


def start_command(
    program: str, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a program of ours by the name of its module; descriptors are its output, its errors, and its results."""
    output, errors, results = descriptors
    return subprocess.Popen(
        [sys.executable, "-m", program.removesuffix(".__main__"), *arguments],
        env={**environment, PIPE: str(results)},
        pass_fds=(results,),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,
    )


_START_SECONDS, _END_SECONDS = 300.0, 10.0
"""How long a server may take to import and fork, and to end."""


class ForkedProcess:
    """A forked process. Implements `Handle`."""

    def __init__(self, pid: int, status: socket.SocketIO) -> None:
        self.pid = pid
        self._status = status
        try:
            self._identity = identity_of(pid)
        except ProcessLookupError:  # it has ended
            self._identity = {}
        self._code: int | None = None
        self._lock = threading.Lock()  # who interrupts it is another thread than who reads its results

    @classmethod
    def from_pipe(cls, pipe: socket.socket) -> ForkedProcess | None:
        """The process whose id comes through the socket; None if that is closed without, or nothing comes."""
        with pipe:
            status = pipe.makefile("rb", buffering=0)
        try:
            line = status.readline() if _is_readable(status.fileno(), _START_SECONDS) else b""
        except BaseException:
            if _is_readable(status.fileno(), _END_SECONDS) and (line := status.readline()):
                os.kill(int(line), signal.SIGKILL)  # it has been requested, and would go on alone
            raise
        if line:
            return cls(int(line), status)
        status.close()
        return None

    def poll(self) -> int | None:
        """Its exit code; that of SIGKILL if it has ended after the server was killed."""
        with self._lock:
            if self._code is None and _is_readable(self._status.fileno(), 0):
                if line := self._status.readline():
                    self._code = int(line)
                elif not is_running(self._identity):
                    self._code = -signal.SIGKILL
                if self._code is not None:
                    self._status.close()
            return self._code


def _is_readable(descriptor: int, seconds: float) -> bool:
    """Whether there is something to read, or nothing will ever come, before so many seconds are over."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(1000 * seconds))


_CHANNEL = "autocompress.trial.process:PipeChannel"


_POLL_SECONDS = 0.1
_SAVING_SECONDS = 60.0
GRACE_SECONDS = 60.0
"""A trial ends by itself at its limit; one that has not after so many seconds more is killed."""


class TrialProcess:
    """A running trial.

    Its output goes to `trials/<key>/output.txt`. Ctrl-C in the terminal does not reach it: call `interrupt`.

    Args:
        store: the experiment's directory.
        key: the trial's.
        parameters: its JSON object.
        start: how its process is started.
        seconds: `maximal_trial_seconds`, after which it ends by itself; one that cannot, as it is stopped, is killed.
    """

    def __init__(
        self,
        store: ExperimentDirectory,
        key: str,
        parameters: Mapping[str, Any],
        start: Starter = fresh_interpreter,
        seconds: float | None = None,
    ) -> None:
        self._seconds, self._started, self._overdue = seconds, time.monotonic(), False
        self._output = store.trial(key).path / "output.txt"
        self._output.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        self._results = os.fdopen(reading, "rb", buffering=0)
        try:
            with self._output.open("wb") as output:
                self._process = start(
                    [str(store.path), "--channel", _CHANNEL],
                    {**os.environ, LAUNCHER: json.dumps(this_process()), PARAMETERS: json.dumps(parameters)},
                    output.fileno(),
                    writing,
                )
        except BaseException:
            self._results.close()
            raise
        finally:
            os.close(writing)

    def results(self) -> Iterator[dict[str, Any]]:
        """Each intermediate result as it arrives, until the process ends; what it has forked may go on."""
        rest = b""
        with self._results:
            for data in self._written():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    def _written(self) -> Iterator[bytes]:
        while True:
            ended = self._poll() is not None  # first: what it has written before is there by then
            if _is_readable(self._results.fileno(), 0 if ended else _POLL_SECONDS):
                data = self._results.read(1 << 16)
                if not data:
                    return
                yield data
            elif ended:
                return

    def _poll(self) -> int | None:
        """The exit code, if it has ended; it is killed where it should have."""
        code = self._process.poll()
        if code is None and self._seconds is not None and not self._overdue:
            self._overdue = time.monotonic() - self._started > self._seconds + GRACE_SECONDS
            if self._overdue:
                self.kill()
        return code

    def interrupt(self) -> None:
        """Let it save its state and end."""
        self._send(signal.SIGTERM)

    def end(self) -> None:
        """Let it save its state and end; kill it where that takes longer than a minute."""
        self.interrupt()
        deadline = time.monotonic() + _SAVING_SECONDS
        while self._poll() is None:
            if time.monotonic() > deadline:
                self.kill()
            time.sleep(_POLL_SECONDS / 2)

    def kill(self) -> None:
        """Kill it."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.poll() is None:
                os.kill(self._process.pid, number)

    def wait(self) -> ProcessEnd:
        """Wait for its end."""
        while (code := self._poll()) is None:
            time.sleep(_POLL_SECONDS / 2)
        if self._overdue:
            return ProcessEnd(killed=overdue_message(self._seconds))
        if code < 0:
            return ProcessEnd(killed=killed_message(signal.Signals(-code).name))
        printed = read_end(self._output).strip()
        return ProcessEnd(crash=printed or f"the trial ended with code {code}") if code else ProcessEnd()


def overdue_message(seconds: float | None) -> str:
    """Message for a trial that was killed, as its limit of so many seconds did not end it.

    What hangs in a trial is ended by that limit; so something outside has stopped it, and it may run again.
    """
    return (
        f"the trial's process was killed, as it did not end by itself after maximal_trial_seconds ({seconds:g}): it "
        "may have been stopped"
    )


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


TRIAL = "autocompress.trial.__main__"
"""The program of a trial."""

FORK_SERVER = "AUTOCOMPRESS_FORK_SERVER"
"""Environment variable: the path of the socket at which a server forks trials."""

PARENT = "AUTOCOMPRESS_PARENT"
"""Environment variable of a forked trial: the id of the process that started what stands for it."""

PROGRESS_FILE = "AUTOCOMPRESS_PROGRESS"
"""Environment variable: the file that a long measurement writes its progress to, for a display, as JSON."""

LAUNCHER = "AUTOCOMPRESS_LAUNCHER"
"""Environment variable: the identity of the process that has started the trial, as JSON."""

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


def launcher() -> dict[str, Any]:
    """Identity of the process that looks after the trials of this one: the one that has started it, else itself."""
    given = os.environ.get(LAUNCHER)
    return dict(json.loads(given)) if given else this_process()
