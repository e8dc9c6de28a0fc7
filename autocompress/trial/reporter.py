"""How a trial talks to whoever started it."""

from __future__ import annotations

from typing import Any, Protocol


class Reporter(Protocol):
    """Takes the results of a trial."""

    def report_epoch(self, result: dict[str, Any]) -> None:
        """An intermediate result: `default` and `accuracy` (evaluator's unit), `accuracy_budget`, `epoch` (from 1)."""

    def report_final(self, result: dict[str, Any]) -> None:
        """The final result: `default` is the score, the others are the fields of `TrialRecord` with these names."""


class Channel(Reporter, Protocol):
    """A reporter that also brings the parameters."""

    def parameters(self) -> dict[str, Any]:
        """The trial's JSON object."""
        ...


class Silent:
    """Reports to nobody."""

    def report_epoch(self, result: dict[str, Any]) -> None:
        """Nothing."""

    def report_final(self, result: dict[str, Any]) -> None:
        """Nothing."""
