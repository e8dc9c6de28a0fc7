"""Figures and phrases that the terminal and reports share."""

from __future__ import annotations

import math

from autocompress.errors import evaluates_differently
from autocompress.records import TrialRecord
from autocompress.store import Verdict


def first_line(text: str) -> str:
    """The first line of a text that is not empty."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "(no reason given)")


def number(value: float | None, digits: int = 4) -> str:
    """A number with the given significant digits; a dash for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A share as percent; a dash for none."""
    return "-" if share is None else f"{share:.1%}"


def counted(count: int, what: str) -> str:
    """A number of things."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def gain(record: TrialRecord) -> str:
    """How much smaller the model is."""
    return f"{percent(record.parameters_removed)} of the parameters removed, {percent(record.size_removed)} smaller"


def at_rate(algorithm: str, rate: float | None) -> str:
    """An algorithm and its requested rate, if any."""
    return algorithm if rate is None else f"{algorithm} at rate {number(rate)}"


def verdict(record: TrialRecord, fresh: Verdict | None = None) -> str:
    """Whether a trial is within the budget, or why it has no result; `fresh` is the verification of its checkpoint."""
    if record.error is not None:
        return f"{record.state}: {first_line(record.error)}"
    stopped = "" if record.state == "completed" else f"{record.state}, "
    text = f"{stopped}{'within' if holds(record, fresh) else 'outside'}"
    if not record.feasible and record.simulated_accuracy not in (None, record.accuracy):
        text += f" as int8; {number(record.simulated_accuracy)} in simulation"
    differs = None if fresh is None else evaluates_differently(fresh.accuracy, record.accuracy)
    return text if differs is None else f"{text}; {differs}"


def holds(record: TrialRecord, fresh: Verdict | None = None) -> bool:
    """Whether a trial is within the budget, and was when its checkpoint was verified."""
    return record.feasible and (fresh is None or fresh.feasible)
