"""Channels between a trial and the process that started it."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol


class Reporter(Protocol):
    """Takes the results of a trial."""

    def report_epoch(self, result: dict[str, Any]) -> None:
        """An intermediate result: `default` and `accuracy` (evaluator's unit), `accuracy_margin`, `epoch` (from 1)."""

    def report_final(self, result: dict[str, Any]) -> None:
        """The final result: `default` is the score, the others are the fields of `TrialRecord` with these names."""


class Channel(Reporter, Protocol):
    """A reporter that also has the trial's parameters."""

    def parameters(self) -> dict[str, Any]:
        """The trial's JSON object."""
        ...


class NullReporter:
    """Discards all results."""

    def report_epoch(self, result: dict[str, Any]) -> None:
        """Nothing."""

    def report_final(self, result: dict[str, Any]) -> None:
        """Nothing."""


PARAMETERS = "AUTOCOMPRESS_PARAMETERS"
"""Environment variable: the trial's JSON object."""

PIPE = "AUTOCOMPRESS_PIPE"
"""Environment variable: number of the file descriptor that results go to."""


class PipeChannel:
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

    def report_final(self, result: dict[str, Any]) -> None:
        """Nothing: the record has it."""
