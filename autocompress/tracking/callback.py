"""What can be told of a search while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocompress.records import TrialRecord
from autocompress.store import OpenTrial

if TYPE_CHECKING:
    from autocompress.result import CompressionResult


class Callback:
    """Told of a search, in the process that launched it, by a thread of its own; override what you need.

    A callback that raises is reported once and not called again; the search goes on. After a resume only what is new is
    told.
    """

    def on_epoch_end(self, trial: OpenTrial, epoch: Mapping[str, Any]) -> None:
        """A trial was evaluated.

        Args:
            trial: its key, the parameters it was given, and what the rule proposed.
            epoch: `epoch` (from 1; 0 before the first), `accuracy` in the evaluator's unit, `accuracy_budget`.
        """

    def on_trial_end(self, record: TrialRecord) -> None:
        """A trial has ended, after all of its epochs were told."""

    def on_search_end(self, result: CompressionResult) -> None:
        """The search has ended by itself, and its best model has been verified; or nothing was within the budget."""

    def close(self) -> None:
        """There is no more to tell, whether the search has ended or was stopped."""
