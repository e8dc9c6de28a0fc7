"""The assessor's rule as an Optuna pruner."""

from __future__ import annotations

from optuna import Study
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial

from autocompress.config import AccuracyAwareSettings
from autocompress.engines.optuna.records import PROPOSAL
from autocompress.search.assess import reason_to_stop


class AdaptiveCompressionPruner(BasePruner):
    """Ends trials whose patience, or the epochs of the whole study, are used up; as the assessor does on NNI.

    An objective reports an intermediate value after each epoch, `step` being the number of epochs done, from 1. A trial
    has the patience that `AdaptiveCompressionSampler` gave it; trials of other samplers have none of their own.

    Args:
        settings: `maximal_total_epochs` is read; by default NNCF's.
    """

    def __init__(self, settings: AccuracyAwareSettings | None = None) -> None:
        self._settings = settings or AccuracyAwareSettings()

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial must end after its latest intermediate value."""
        if trial.last_step is None:
            return False
        patience = trial.user_attrs.get(PROPOSAL, {}).get("epochs")
        others = (each for each in study.get_trials(deepcopy=False) if each.number != trial.number)
        reason = reason_to_stop(
            trial.last_step,
            patience=patience,
            total_epochs=trial.last_step + sum(each.last_step or 0 for each in others),
            maximal_total_epochs=self._settings.maximal_total_epochs,
        )
        return reason is not None
