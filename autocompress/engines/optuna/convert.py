"""From Optuna's trials to records, and back; the accuracy budget as Optuna's constraint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optuna import Trial
from optuna.trial import FrozenTrial, TrialState

from autocompress.argument_checks import checked_arguments
from autocompress.errors import ConfigError
from autocompress.records import State, TrialRecord
from autocompress.store import PendingTrial, record_without_result

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "lost",
}


def to_record(trial: FrozenTrial, rate: str, *, state: TrialState | None = None) -> TrialRecord:
    """The record of an ended trial, with the fields that the search needs.

    Args:
        trial: with a value of the rate.
        rate: the rate's parameter.
        state: its final state, where the storage does not have it yet.
    """
    ended = _STATES[state or trial.state]
    return TrialRecord(
        key=str(trial.number),
        algorithm=rate,
        state=ended,
        requested_rate=float(trial.params[rate]),
        feasible=ended == "completed" and all(value <= 0 for value in constraints(trial)),
        epochs=int(trial.user_attrs.get("epochs", 0)),
        checkpoint=str(trial.number),
    )


def ended(trials: Sequence[FrozenTrial], rate: str) -> list[FrozenTrial]:
    """The ended trials that have a value of the rate, in their order."""
    return [trial for trial in trials if trial.state in _STATES and rate in trial.params]


PLAN = "autocompress:plan"
"""User attribute of a study: its plan, as in `experiment.json`."""

PROPOSAL = "autocompress:proposal"
"""User attribute of a trial: what the rule proposed, as JSON."""

ORDER = "autocompress:order"
"""User attribute of a trial: its `key`, its JSON object as `parameters`, its `proposal` or null. Null: it has none."""

RECORD = "autocompress:record"
"""User attribute of a trial: its result, as JSON."""

INTERRUPTED = "autocompress:interrupted"
"""User attribute of a trial that was interrupted with the whole search: it has no result."""


def open_trial(trial: FrozenTrial) -> PendingTrial | None:
    """The trial's order; None while it is not written."""
    order = trial.user_attrs.get(ORDER)
    if order is None:
        return None
    return PendingTrial.from_dict(order)


def proposed(trial: FrozenTrial) -> dict[str, Any] | None:
    """The proposal of a trial, as JSON, also in a user's own study."""
    order: dict[str, Any] = trial.user_attrs.get(ORDER) or {}
    proposal: dict[str, Any] | None = trial.user_attrs.get(PROPOSAL, order.get("proposal"))
    return proposal


KnownRecords = dict[int, TrialRecord | None]
"""Of a study's ended trials, by their numbers; None of one without a result. Ended trials do not change."""


def records_of(trials: Iterable[FrozenTrial], known: KnownRecords | None = None) -> list[TrialRecord]:
    """Records of the ended trials in their order, each key once; trials whose process was killed are lost.

    Args:
        trials: of one study.
        known: what was read before, to which is added what is new.
    """
    known = {} if known is None else known
    records: dict[Any, TrialRecord] = {}
    for trial in trials:
        number = trial.number
        if number not in known:
            if not trial.state.is_finished():
                continue
            known[number] = _record(trial)
        record = known[number]
        if record is not None:
            records.setdefault((number if record.state == "lost" else record.key), record)
    return list(records.values())


def _record(trial: FrozenTrial) -> TrialRecord | None:
    attributes = trial.user_attrs
    if attributes.get(ORDER) is None or INTERRUPTED in attributes:
        return None
    if RECORD in attributes:
        return TrialRecord.from_dict(attributes[RECORD])
    pending = open_trial(trial)
    return None if pending is None else record_without_result(pending, None)


def running_keys(trials: Iterable[FrozenTrial]) -> set[str]:
    """Keys of the trials that run."""
    running = (trial.user_attrs.get(ORDER) for trial in trials if trial.state is TrialState.RUNNING)
    return {order["key"] for order in running if order is not None}


_CONSTRAINTS = "constraints"


@checked_arguments
def set_accuracy_margin(trial: Trial, accuracy_margin: float) -> None:
    """Set how far a trial is inside its accuracy budget.

    It is written as `constraints_func` writes it: Optuna 4 and 5 and optuna-dashboard read that, and the dashboard
    nothing else.

    Args:
        trial: that runs.
        accuracy_margin: accuracy minus threshold, or the reverse where lower is better; at least 0 is within.
    """
    trial.storage.set_trial_system_attr(trial._trial_id, _CONSTRAINTS, (-accuracy_margin,))


def constraints(trial: FrozenTrial) -> list[float]:
    """All constraints of a trial; at most 0 is within."""
    listed = trial.system_attrs.get(_CONSTRAINTS) or ()
    named = [value for key, value in trial.system_attrs.items() if key.startswith(f"{_CONSTRAINTS}:")]
    return [*map(float, listed), *map(float, named)]


def require_constraints(trial: FrozenTrial) -> None:
    """Check that a finished trial has a constraint.

    Raises:
        ConfigError: it has no constraint.
    """
    if not constraints(trial):
        raise ConfigError(
            "a trial must have a constraint for the accuracy budget; call "
            "autocompress.set_accuracy_margin(trial, accuracy - threshold) in the objective, or give the sampler a "
            f"constraints_func; got no constraint of trial {trial.number}"
        )
