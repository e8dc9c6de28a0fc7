"""A trial in a process of its own, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.store import ExperimentDirectory, told_killed
from autocompress.trial.forking import Starter, fresh_interpreter
from autocompress.trial.pipe import PARAMETERS

_CHANNEL = "autocompress.trial.pipe:PipeChannel"


class TrialProcess:
    """A trial that runs.

    What it prints goes to `trials/<key>/output.txt`. It is not ended by Ctrl-C in the terminal; whoever started it is
    to interrupt it.

    Args:
        store: the experiment's directory, with its settings.
        key: the trial's key.
        parameters: its JSON object.
        start: how its process is started.
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
        """Each intermediate result when it arrives, until the process ends."""
        with self._results:
            for line in self._results:
                yield json.loads(line)

    def interrupt(self) -> None:
        """Let it save its state and end, as an assessor or Ctrl-C does."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if not self._ended:
                os.kill(self._process.pid, number)

    def wait(self) -> End:
        """Wait for its end, and tell of it."""
        code = self._process.wait()
        self._ended = True
        if code < 0:
            return End(killed=told_killed(signal.Signals(-code).name))
        printed = self._output.read_text(errors="replace").strip()
        return End(crash=printed or f"the trial ended with code {code}") if code else End()


@dataclass(frozen=True)
class End:
    """How a trial's process ended.

    Attributes:
        crash: what it printed, where it ended with an error by itself.
        killed: by which signal, where it was.
    """

    crash: str | None = None
    killed: str | None = None
