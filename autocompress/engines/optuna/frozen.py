"""What Optuna's trials say, as records of the rule."""

from __future__ import annotations

from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from autocompress.errors import ConfigError
from autocompress.records import State, TrialRecord

_CONSTRAINTS = "constraints"
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "lost",
}


def constraints(trial: FrozenTrial) -> list[float]:
    """All constraints of a trial; at most 0 is within. Written by `set_constraint` or, before Optuna 5, by samplers."""
    listed = trial.system_attrs.get(_CONSTRAINTS) or ()
    named = [value for key, value in trial.system_attrs.items() if key.startswith(f"{_CONSTRAINTS}:")]
    return [*map(float, listed), *map(float, named)]


def require_constraints(trial: FrozenTrial) -> None:
    """Check that a finished trial tells whether it is within the budget.

    Raises:
        ConfigError: it has no constraint.
    """
    if not constraints(trial):
        raise ConfigError(
            "a trial must tell whether it is within the accuracy budget; call "
            f"trial.set_constraint('accuracy', threshold - accuracy) in the objective, or give the sampler a "
            f"constraints_func; got no constraint of trial {trial.number}"
        )


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
