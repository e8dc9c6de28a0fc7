"""Whether a trial is within the accuracy budget, as Optuna 4.9, Optuna 5 and optuna-dashboard read and write it."""

from __future__ import annotations

from optuna import Trial
from optuna.trial import FrozenTrial

from autocompress.argument_checks import checked_arguments
from autocompress.errors import ConfigError

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
