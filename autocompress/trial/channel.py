"""Channels between a trial and the process that started it."""

from __future__ import annotations

import json
import os
from typing import Any, Protocol


class Reporter(Protocol):
    """Receives the results of a trial; these methods discard them."""

    def report_epoch(self, result: dict[str, Any]) -> None:  # noqa: ARG002
        """An intermediate result: `default` and `accuracy` (evaluator's unit), `accuracy_margin`, `epoch` (from 1)."""
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
