"""The tree of autocompress's errors, and how their messages are written."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.records import TrialRecord

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 400  # cut by `short`, at the end
_SHORT.maxlevel = 2


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
        disproved: the records that were within the budget, and what each one's model evaluated to when it was loaded
            afresh, outside of it.
        reasons: what kept the search from finding anything, a sentence each.
    """

    def __init__(
        self,
        best_accuracy: float | None,
        threshold: float,
        trials: Sequence[TrialRecord],
        disproved: Sequence[tuple[TrialRecord, float]] = (),
        reasons: Sequence[str] = (),
    ) -> None:
        self.best_accuracy = best_accuracy
        self.threshold = threshold
        self.trials = tuple(trials)
        self.disproved = tuple(disproved)
        self.reasons = tuple(reasons)
        reached = "no trial was evaluated" if best_accuracy is None else f"the best accuracy was {best_accuracy:g}"
        super().__init__(
            f"no compressed model stayed within the accuracy budget: the threshold is {threshold:g}, {reached}; "
            f"{_disproved(disproved)}tried {', '.join(map(_named, trials)) or 'nothing'}"
            + "".join(f"\n{reason}" for reason in reasons)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.best_accuracy, self.threshold, self.trials, self.disproved, self.reasons)


def _disproved(disproved: Sequence[tuple[TrialRecord, float]]) -> str:
    contradicted = [
        (trial, sentence)
        for trial, accuracy in disproved
        if (sentence := evaluates_differently(accuracy, trial.accuracy)) is not None
    ]
    if not contradicted:
        return ""
    more = f" (so of {len(contradicted)} trials)" if len(contradicted) > 1 else ""
    return f"{_named(contradicted[0][0])} {contradicted[0][1]}{more}; "


def _named(trial: TrialRecord) -> str:
    return trial.algorithm if trial.requested_rate is None else f"{trial.algorithm} at {trial.requested_rate:g}"


_SAME_ACCURACY = 1e-6
"""Relative difference of two accuracies below which they are one: an average of float32 values keeps about that when it
is summed in another order, and one sample more or less that is classified rightly changes an accuracy by more."""


def evaluates_differently(fresh: float, recorded: float | None) -> str | None:
    """A sentence, without its subject, where a model evaluates differently when loaded afresh; None where not."""
    if recorded is None or math.isclose(fresh, recorded, rel_tol=_SAME_ACCURACY):
        return None
    digits = next((few for few in range(4, 9) if f"{fresh:.{few}g}" != f"{recorded:.{few}g}"), 9)
    return (
        f"evaluates differently when loaded afresh: {fresh:.{digits}g} against {recorded:.{digits}g}; the evaluator is "
        "not deterministic or leaves the model in training mode"
    )


def short(value: Any) -> str:
    """A value for a message: one line of at most 80 characters, none of them a control character."""
    try:
        text = " ".join(_SHORT.repr(value).split())
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        name = type(value).__name__
        return f"{'an' if name == 'int' else 'a'} {name} too long to show"
    return _cut(text, 80)


_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # titles, links, and what else is ended by a bell or a backslash
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]",
    re.DOTALL,
)


def printable(text: str) -> str:
    """A text without escape sequences and control characters, which could control a terminal; its lines stay."""
    return text if text.isprintable() else _ESCAPES.sub("", text.replace("\r\n", "\n"))


def short_text(text: str, longest: int = 2000) -> str:
    """What is printable of a text; of a long one its beginning and its end."""
    if len(text) > 2 * longest:  # what is between need not be looked at
        text = f"{text[:longest]}{text[-longest:]}"
    text = printable(text)
    return text if len(text) <= longest else f"{text[: longest // 2]} [...] {text[-(longest // 2) + 7 :]}"


def first_line(error: BaseException) -> str:
    """The type of an error and the first line of its message, at most 200 characters."""
    return _cut(f"{type(error).__name__}: {beginning(str(error), 'no reason given')}", 200)


def beginning(text: str, otherwise: str = "(no reason given)") -> str:
    """The first line of a text that is not empty, without control characters; another text where there is none."""
    return short_text(next((line.strip() for line in text.splitlines() if line.strip()), otherwise))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def command(*words: object) -> str:
    """A command line for messages, quoted so that it can be pasted into a shell."""
    return shlex.join(map(str, words))


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Message for an unknown name: the name, similar ones, and all known ones."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(repr(near) for near in close)}?" if close else ""
    return f"unknown {what} {name!r}{hint} (known: {', '.join(names) or 'none'})"
