"""The assessor's rule as an Optuna pruner."""

from __future__ import annotations

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from autocompress.engines.optuna.records import proposed
from autocompress.kinds import checked_arguments
from autocompress.search.assess import reason_to_stop


class AdaptiveCompressionPruner(BasePruner):
    """Ends trials whose patience, or the epochs of the whole study, are used up; as the assessor does on NNI.

    An objective reports an intermediate value after each epoch, `step` being the number of epochs done, from 1. A trial
    has the patience that `AdaptiveCompressionSampler` gave it; trials of other samplers have none of their own.

    Args:
        maximal_total_epochs: the most epochs of all trials together; NNCF's by default.
        stages: how often a trial may use its patience: twice in a mix of two algorithms.
    """

    @checked_arguments
    def __init__(self, maximal_total_epochs: int = 10_000, *, stages: int = 1) -> None:
        self._maximal_total_epochs, self._stages = maximal_total_epochs, stages

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial must end after its latest intermediate value."""
        if trial.last_step is None:
            return False
        patience = (proposed(trial) or {}).get("epochs")
        others = (each for each in study.get_trials(deepcopy=False) if each.number != trial.number)
        reason = reason_to_stop(
            trial.last_step,
            patience=patience and patience * self._stages,
            total_epochs=trial.last_step + sum(each.last_step or 0 for each in others),
            maximal_total_epochs=self._maximal_total_epochs,
        )
        return reason is not None
