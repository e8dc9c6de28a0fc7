"""What a loop asks of the framework."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from autocompress.engines.local.functions import UserFunctions
from autocompress.engines.local.recorder import Outcome
from autocompress.plan import ExperimentPlan
from autocompress.records import Preflight, TrialRecord
from autocompress.store import ExperimentDirectory, PendingTrial, Verdict


class Runner(Protocol):
    """Trains, compresses and saves: what of a loop depends on the framework."""

    @property
    def leads(self) -> bool:
        """Whether this process writes: of several that train together one does."""
        ...

    def share(self, value: str | None = None) -> str | None:
        """The leading process' value; all processes come here together."""
        ...

    def begin(
        self,
        model: Any,
        functions: UserFunctions,
        store: ExperimentDirectory,
        plan: ExperimentPlan,
    ) -> AbstractContextManager[None]:
        """Be ready for trials on a model while the block runs."""
        ...

    def look(self, model: Any, functions: UserFunctions, plan: ExperimentPlan) -> Preflight | None:
        """Try the functions before anything else; None where several processes train together."""
        ...

    def key(self, parameters: dict[str, Any]) -> str:
        """The key of a trial."""
        ...

    def run(
        self,
        trial: PendingTrial,
        epochs_before: int,
        on_training: Callable[[], None],
        on_epoch: Callable[[dict[str, Any]], None],
    ) -> Outcome:
        """Run a trial, which the outcome saves.

        Args:
            trial: what to do.
            epochs_before: of all rates before this one.
            on_training: called when the model has been compressed.
            on_epoch: told of each evaluation, as the learning curve has it.
        """
        ...

    def holds(self, key: str) -> bool:
        """Whether a trial can start from another one without reading its files."""
        ...

    def verify(self, record: TrialRecord, on_validation: Callable[[], None]) -> Verdict:
        """Let the model become that of a trial's checkpoint, and validate it, of which `on_validation` is told."""
        ...

    def deliver(self) -> Any:
        """The model, as the user handed it over."""
        ...
