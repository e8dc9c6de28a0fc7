"""Why a search found nothing, or little: what its own records and learning curves show."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autocompress.errors import InfeasibleBudgetError
from autocompress.records import TrialRecord
from autocompress.registry import MIX
from autocompress.report.verdict import at_rate, counted, nearest_verified_accuracy, number
from autocompress.store import ExperimentDirectory, Verdict

if TYPE_CHECKING:
    from autocompress.plan import ExperimentPlan


def infeasible(
    plan: ExperimentPlan,
    records: Sequence[TrialRecord],
    verdicts: Mapping[str, Verdict],
    directory: ExperimentDirectory,
) -> InfeasibleBudgetError:
    """The error of a search without a feasible trial, or whose feasible ones failed verification."""
    higher = plan.measured.higher_is_better
    nearest = nearest_verified_accuracy(records, verdicts, plan.threshold, higher_is_better=higher)
    disproved = [
        (record, verdicts[record.key].accuracy)
        for record in records
        if record.feasible and record.key in verdicts and not verdicts[record.key].feasible
    ]
    why = diagnosis(plan, records, lambda key: directory.trial(key).curve())
    return InfeasibleBudgetError(nearest, plan.threshold, records, disproved, why)


POOR = 0.1
"""Share removed below which a result is little."""

Curve = Sequence[dict[str, Any]]
"""The evaluations of a trial: objects with `epoch` (0: before training) and `accuracy_margin`."""


def diagnosis(plan: ExperimentPlan, records: Iterable[TrialRecord], curve_of: Callable[[str], Curve]) -> list[str]:
    """What kept a search from removing more, a sentence each, with the setting to change; the surest first.

    Args:
        plan: with its baseline.
        records: of all trials.
        curve_of: from a trial's key to its evaluations.
    """
    tried = [each for each in records if each.accuracy is not None and not each.feasible]
    if not tried:
        return []
    lowest = min(tried, key=lambda record: record.requested_rate or 0.0)
    margins = _margins(curve_of(lowest.key))
    named = at_rate(lowest.algorithm, lowest.requested_rate)
    texts = (
        _harm(plan, named, margins),
        _rising(plan, lowest, named, margins),
        _blame(plan, lowest),
        _noise(plan, lowest),
    )
    return [text for text in texts if text]


def _margins(curve: Curve) -> dict[int, float]:
    return {int(point["epoch"]): float(point["accuracy_margin"]) for point in curve if "accuracy_margin" in point}


def _harm(plan: ExperimentPlan, named: str, margins: dict[int, float]) -> str:
    """Fine-tuning makes the model that lost least worse than it was before."""
    trained = [margin for epoch, margin in margins.items() if epoch > 0]
    if not trained or max(trained) >= margins.get(0, min(trained)):
        return ""
    settings = plan.settings
    tips = []
    if settings.fine_tuning_schedule == "constant":
        tips.append("fine_tuning_schedule linear lets it go to zero")
    if len(settings.learning_rate_factors) == 1:
        tips.append("learning_rate_factors [1, 0.3, 0.1] tries lower ones")
    return (
        f"Fine-tuning makes {named} worse, {number(-max(trained), 2)} outside the budget where it was "
        f"{number(-margins[0], 2)} before: the learning rate is too high{_listed(tips)}."
    )


def _rising(plan: ExperimentPlan, record: TrialRecord, named: str, margins: dict[int, float]) -> str:
    """The accuracy was still rising when the epochs were over."""
    ordered = [margins[epoch] for epoch in sorted(margins) if epoch > 0]
    if len(ordered) < 2 or ordered[-1] < max(ordered):
        return ""
    if not ordered[-1] - ordered[-2] > (ordered[-2] - ordered[0]) / 4:
        return ""
    first = record.purpose == "rate" and record.epochs > plan.settings.patience_epochs
    name = "initial_training_phase_epochs" if first else "patience_epochs"
    return (
        f"The accuracy of {named} was still rising after {counted(record.epochs, 'epoch')}, "
        f"{number(-ordered[-1], 2)} outside the budget: {name} is {getattr(plan.settings, name)}; pruning_steps 2 "
        "removes filters more gently."
    )


def _blame(plan: ExperimentPlan, record: TrialRecord) -> str:
    """One layer alone moves the outputs far more than the others, by the probe."""
    kept = 1 - (record.requested_rate or 0.0)
    measured = [each for each in plan.measured.sensitivities if each.algorithm in record.algorithm.split(MIX)]
    damages = {part.layers[0]: part.at(kept) for each in measured for part in each.couplings}
    if len(damages) < _FEWEST_LAYERS:
        return ""
    worst = max(damages, key=damages.__getitem__)
    others = statistics.median(value for name, value in damages.items() if name != worst)
    if damages[worst] <= _TO_BLAME * others:
        return ""
    what = f"Only removing filters of {worst} moves the outputs"
    if others:
        times = number(damages[worst] / others, 2)
        what = f"Removing filters of {worst} alone moves the outputs {times} times as far as those of the other layers"
    return f'{what}: exclude it (ignored_scopes ["{worst}"]), or take the allocation sensitivity.'


_FEWEST_LAYERS, _TO_BLAME = 3, 10.0
"""From how many layers on one can be to blame, and how many times as far as with the others the outputs move then."""


def _noise(plan: ExperimentPlan, record: TrialRecord) -> str:
    """The evaluator cannot tell the budget from nothing."""
    width = abs(plan.measured.accuracy - plan.threshold)
    noise = max(plan.measured.noise or 0.0, record.accuracy_error or 0.0)
    if noise < width:
        return ""
    return (
        f"The evaluator's noise ({number(noise, 2)}) is as large as the budget ({number(width, 2)}): evaluate on more "
        "samples, or widen the budget."
    )


def _listed(tips: Sequence[str]) -> str:
    return f" ({'; '.join(tips)})" if tips else ""
