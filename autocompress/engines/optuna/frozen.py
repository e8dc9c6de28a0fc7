"""What Optuna's trials say, as records of the rule."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from autocompress.engines.optuna.constraints import constraints
from autocompress.records import State, TrialRecord

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "lost",
}


def to_record(trial: FrozenTrial, rate: str, *, state: TrialState | None = None) -> TrialRecord:
    """What the rule needs to know of an ended trial.

    Args:
        trial: with a value of the rate.
        rate: the rate's parameter.
        state: how it ends, where the storage does not know yet.
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
