"""A trial in a process of its own, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.store import ExperimentDirectory
from autocompress.trial.pipe import PARAMETERS, PIPE

_CHANNEL = "autocompress.trial.pipe:PipeChannel"


class TrialProcess:
    """A trial that runs.

    What it prints goes to `trials/<key>/output.txt`. It is not ended by Ctrl-C in the terminal; whoever started it is
    to interrupt it.

    Args:
        store: the experiment's directory, with its settings.
        key: the trial's key.
        parameters: its JSON object.
    """

    def __init__(self, store: ExperimentDirectory, key: str, parameters: Mapping[str, Any]) -> None:
        self._output = store.trial(key).path / "output.txt"
        self._output.parent.mkdir(parents=True, exist_ok=True)
        reading, writing = os.pipe()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "autocompress.trial", str(store.path), "--channel", _CHANNEL],
                env={**os.environ, PARAMETERS: json.dumps(parameters), PIPE: str(writing)},
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.close(writing)
        self._results = os.fdopen(reading, "r", encoding="utf-8")

    def results(self) -> Iterator[dict[str, Any]]:
        """Each intermediate result when it arrives, until the process ends."""
        with self._results:
            for line in self._results:
                yield json.loads(line)

    def interrupt(self) -> None:
        """Let it save its state and end, as an assessor or Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self) -> End:
        """Wait for its end, and tell of it."""
        code = self._process.wait()
        if code < 0:
            name = signal.Signals(-code).name
            hint = " (the machine may have been out of memory)" if -code == signal.SIGKILL else ""
            return End(killed=f"the trial's process was killed by {name}{hint}")
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
