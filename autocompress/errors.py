"""Every error autocompress raises on purpose, in one tree."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.records import TrialRecord


class AutoCompressError(Exception):
    """Root of the tree: catch this to catch everything autocompress raises on purpose."""


class ConfigError(AutoCompressError):
    """A setting, a search space or an argument breaks a rule; raised before anything is trained."""


class ModuleError(AutoCompressError):
    """The user's compression module cannot be found, loaded or used."""


class CompressionError(AutoCompressError):
    """An algorithm cannot be applied to the model, or would change nothing."""


class TrialError(AutoCompressError):
    """A trial failed; the cause is its reason, `traceback` (where known) what the trial process printed."""

    def __init__(self, message: str, traceback: str | None = None) -> None:
        super().__init__(message)
        self.traceback = traceback

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n{self.traceback}" if self.traceback else message


class StoreError(AutoCompressError):
    """The experiment's directory cannot be read, written, or belongs to another experiment."""


class EngineError(AutoCompressError):
    """The engine that runs the trials (NNI, ...) could not start or went away."""


class InfeasibleBudgetError(AutoCompressError):
    """No trial stayed within the accuracy budget.

    Attributes:
        best_accuracy: the accuracy nearest to the threshold that any trial reached, None when none was evaluated.
        threshold: the lowest tolerable accuracy (the highest, where lower is better).
        trials: records of everything that was tried.
    """

    def __init__(self, best_accuracy: float | None, threshold: float, trials: Sequence[TrialRecord]) -> None:
        self.best_accuracy = best_accuracy
        self.threshold = threshold
        self.trials = tuple(trials)
        reached = "no trial was evaluated" if best_accuracy is None else f"the best accuracy was {best_accuracy:g}"
        super().__init__(
            f"no compressed model stayed within the accuracy budget: the threshold is {threshold:g}, {reached}; "
            f"tried {_tried(trials)}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.best_accuracy, self.threshold, self.trials)


def _tried(trials: Sequence[TrialRecord]) -> str:
    if not trials:
        return "nothing"
    return ", ".join(
        f"{trial.algorithm} at {trial.requested_rate:g}" if trial.requested_rate is not None else trial.algorithm
        for trial in trials
    )


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message for a name that is not known: the name, the close ones, and all known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(near) for near in close)}?" if close else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
