"""A trial's way to a process that waits for it: parameters from the environment, results as lines into a pipe."""

from __future__ import annotations

import json
import os
from typing import Any

PARAMETERS = "AUTOCOMPRESS_PARAMETERS"
"""Environment variable: the trial's JSON object."""

PIPE = "AUTOCOMPRESS_PIPE"
"""Environment variable: number of the file descriptor that results go to."""


class PipeChannel:
    """Brings the parameters of `process.TrialProcess`, and takes the results to it."""

    def __init__(self) -> None:
        self._pipe = int(os.environ.pop(PIPE))

    def parameters(self) -> dict[str, Any]:
        """The trial's JSON object."""
        parameters: dict[str, Any] = json.loads(os.environ.pop(PARAMETERS))
        return parameters

    def report_epoch(self, result: dict[str, Any]) -> None:
        """A line. If nobody waits any more the trial goes on: its record on disk is what counts."""
        try:
            os.write(self._pipe, (json.dumps(result) + "\n").encode())
        except BrokenPipeError:
            return

    def report_final(self, result: dict[str, Any]) -> None:
        """Nothing: the record tells."""
