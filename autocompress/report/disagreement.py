"""Trials whose models evaluate differently when they are loaded afresh, in words and as an error.

That is told wherever a trial is: without it a person sees an accuracy beyond the threshold, and no result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from autocompress.budget import accuracy_budget
from autocompress.errors import InfeasibleBudgetError, evaluates_differently
from autocompress.records import TrialRecord
from autocompress.report.phrases import at_rate
from autocompress.search import nearest_accuracy
from autocompress.store import Verdict

_MOST_TOLD = 3


def disagreement(record: TrialRecord, fresh: Verdict | None) -> str | None:
    """What is said of a trial whose model evaluates differently when loaded afresh.

    Args:
        record: of the trial.
        fresh: what loading it afresh came to; None: that has not been done.

    Returns:
        a sentence without its subject, which is the trial; None where the two agree.
    """
    return None if fresh is None else evaluates_differently(fresh.accuracy, record.accuracy)


def disagreements(records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict]) -> list[str]:
    """A sentence about each of the trials that evaluate differently, of more than three the first three."""
    found = [
        f"{at_rate(record.algorithm, record.requested_rate)} {told}"
        for record in records
        if (told := disagreement(record, verdicts.get(record.key))) is not None
    ]
    left = len(found) - _MOST_TOLD
    return found[:_MOST_TOLD] + ([f"and so {'does' if left == 1 else 'do'} {left} more"] if left > 0 else [])


def nearest_fresh(
    records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict], threshold: float, *, higher_is_better: bool
) -> float | None:
    """The accuracy nearest to the threshold, or furthest inside it; of models loaded afresh what they came to there."""
    return nearest_accuracy(_fresh(each, verdicts.get(each.key), threshold, higher_is_better) for each in records)


def infeasible(
    records: Iterable[TrialRecord], verdicts: Mapping[str, Verdict], threshold: float, *, higher_is_better: bool
) -> InfeasibleBudgetError:
    """The error of a search in which nothing stayed within the budget, loaded afresh where it came to that.

    Args:
        records: of all trials.
        verdicts: what loading trials afresh came to, by their keys.
        threshold: the worst tolerable accuracy.
        higher_is_better: direction of the metric.
    """
    tried = list(records)
    nearest = nearest_fresh(tried, verdicts, threshold, higher_is_better=higher_is_better)
    disproved = [
        (record, verdicts[record.key].accuracy)
        for record in tried
        if record.feasible and record.key in verdicts and not verdicts[record.key].feasible
    ]
    return InfeasibleBudgetError(nearest, threshold, tried, disproved)


def _fresh(record: TrialRecord, fresh: Verdict | None, threshold: float, higher_is_better: bool) -> TrialRecord:
    if fresh is None:
        return record
    budget = accuracy_budget(fresh.accuracy, threshold, higher_is_better=higher_is_better)
    return dataclasses.replace(record, accuracy=fresh.accuracy, accuracy_budget=budget, feasible=fresh.feasible)
