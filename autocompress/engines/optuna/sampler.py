"""The search rule as an Optuna sampler and pruner."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.trial import FrozenTrial, TrialState

from autocompress.argument_checks import checked_arguments
from autocompress.engines.optuna.convert import PROPOSAL, ended, proposed, require_constraints, to_record
from autocompress.errors import ConfigError
from autocompress.records import Proposal, TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis
from autocompress.search.adaptive import next_speculative, reason_to_stop
from autocompress.settings import AccuracyAwareSettings

_logger = logging.getLogger(__name__)
_RATE = "compression_rate"


class AdaptiveCompressionSampler(BaseSampler):
    """Proposes compression rates by step-halving over the trials of the study, and every other parameter by another.

    Nothing is kept between calls: any worker with this sampler can go on with the study. A trial is feasible where all
    its constraints are at most 0; `set_accuracy_margin(trial, accuracy - threshold)` writes one, `constraints_func` is
    the other way. Trials outside the budget are to be COMPLETE, so that other samplers learn from them; PRUNED ones
    count as infeasible, and so does a rate whose trials FAIL three times. `optimize` is stopped when the search is
    finished. Workers that run at the same time are given the rates that the search may ask for next.

    The proposal of a trial is in `trial.user_attrs["autocompress:proposal"]`: `lr_factor`, `epochs`, and in
    `start_from` the number of the feasible trial with the highest rate not above this one, as text.

    Source: accuracy-aware training of NNCF 2.19, "adaptive_compression_level"; see `search.step_halving`.

    Args:
        rate: name of the parameter that is the compression rate, suggested as a float or as a choice of numbers.
        settings: of the search; by default NNCF's. The accuracy budget among them is not used, but the constraints.
        independent_sampler: for all other parameters; at random by default.
        constraints_func: of a finished trial, numbers that are at most 0 where it is within the budget.

    Attributes:
        given_settings: the settings that were given; None for the defaults.
    """

    @checked_arguments
    def __init__(
        self,
        rate: str = _RATE,
        settings: AccuracyAwareSettings | None = None,
        *,
        independent_sampler: BaseSampler | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
    ) -> None:
        self._rate, self.given_settings = rate, settings
        self._settings = settings or AccuracyAwareSettings()
        self._given = {
            "rate": rate != _RATE,
            "independent_sampler": independent_sampler is not None,
            "constraints_func": constraints_func is not None,
        }
        self._others = independent_sampler or RandomSampler(seed=self._settings.seed)
        self._constraints_func = constraints_func

    def require_settings_only(self) -> None:
        """Check that `CompressionStudy` can use all that this sampler was given.

        The study has parameters for the rates of its own search space only, and writes the constraints itself.

        Raises:
            ConfigError: something else than settings was given, or it is a subclass.
        """
        remedy = "use this sampler in a study of optuna.create_study"
        if type(self) is not AdaptiveCompressionSampler:
            raise ConfigError(
                f"sampler must be an AdaptiveCompressionSampler itself, as CompressionStudy calls none of its methods; "
                f"got the subclass {type(self).__name__}: {remedy}"
            )
        if unused := [name for name, given in self._given.items() if given]:
            raise ConfigError(
                f"sampler must have settings only, as CompressionStudy uses nothing else of an "
                f"AdaptiveCompressionSampler; got {', '.join(unused)}: {remedy}"
            )

    def reseed_rng(self) -> None:
        """Reseed the other sampler; the rule is deterministic."""
        self._others.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Passed on."""
        self._others.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """That of the other sampler, without the rate."""
        space = self._others.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name != self._rate}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Passed on."""
        return self._others.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The rate by the rule, all others by the other sampler.

        Raises:
            ConfigError: the rate is not a float or a choice of numbers in [0, 1].
        """
        if param_name != self._rate:
            return self._others.sample_independent(study, trial, param_name, param_distribution)
        proposal = self._proposal(study, trial, self._search(param_distribution))
        study._storage.set_trial_user_attr(trial._trial_id, PROPOSAL, proposal.to_dict())
        trial.set_user_attr(PROPOSAL, proposal.to_dict())  # for the objective and the pruner, which have read it before
        if isinstance(param_distribution, CategoricalDistribution):  # 0 may be meant by 0.0
            return next(choice for choice in param_distribution.choices if choice == proposal.requested_rate)
        return proposal.requested_rate

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Store the constraints, and stop the study when the search is finished.

        Raises:
            ConfigError: a trial that is COMPLETE has no constraint.
        """
        if self._constraints_func is not None:
            _process_constraints_after_trial(self._constraints_func, study, trial, state)
            trial = study._storage.get_trial(trial._trial_id)
        self._others.after_trial(study, trial, state, values)
        if self._rate not in trial.params:
            return
        if state is TrialState.COMPLETE:
            require_constraints(trial)
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        records = [*self._records(others), to_record(trial, self._rate, state=state)]
        if self._search(trial.distributions[self._rate]).next(records) is None:
            with contextlib.suppress(RuntimeError):  # ask and tell: there is no loop to stop
                study.stop()

    def _proposal(self, study: Study, trial: FrozenTrial, search: AdaptiveSearch) -> Proposal:
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        records = self._records(others)
        running = {
            each.params[self._rate] for each in others if not each.state.is_finished() and self._rate in each.params
        }
        proposal = next_speculative(search, records, running)
        if proposal is not None:
            return proposal
        pending = search.next(records)
        if pending is not None:
            return pending  # all that the search may ask for is being tried; so this one is tried twice
        _logger.warning("the search is finished; trial %d repeats its best rate", trial.number)
        return _repeated(search, records)

    def _records(self, trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
        return [to_record(trial, self._rate) for trial in ended(trials, self._rate)]

    def _search(self, distribution: BaseDistribution) -> AdaptiveSearch:
        _require_rates_only(self._settings)
        search = self._settings.adaptive_search(self._rate, _axis(self._rate, distribution, self._settings))
        # How a trial is trained is the objective's.
        return replace(search, second_chance=False, final_epochs=0, learning_rate_factors=(1.0,))


def _require_rates_only(settings: AccuracyAwareSettings) -> None:
    """Check that no trials are wanted that are not there for their rates, of which an objective knows nothing."""
    for name, none in (("learning_rate_factors", (1.0,)), ("final_training_epochs", 0), ("look_beyond", False)):
        if name in settings.model_fields_set and (given := getattr(settings, name)) != none:
            raise ConfigError(
                f"{name} must be {none!r} in a study of one's own, whose trials differ in their rates alone; got "
                f"{given!r}: CompressionStudy uses it"
            )


def _axis(name: str, distribution: BaseDistribution, settings: AccuracyAwareSettings) -> RateAxis:
    """The rates that a parameter can have and the settings allow.

    Raises:
        ConfigError: it is not a float or a choice of numbers in [0, 1], or none of them is allowed.
    """
    low, high = settings.minimal_compression_rate, settings.maximal_compression_rate
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        axis = RateAxis(max(low, distribution.low), min(high, distribution.high))
    else:
        rates = sorted(float(rate) for rate in _choices(name, distribution) if low <= rate <= high)
        axis = RateAxis(rates[0], rates[-1], tuple(rates)) if rates else RateAxis(1.0, 0.0)
    if not 0 <= axis.low <= axis.high <= 1:
        raise ConfigError(f"{name} must have a value in [{low:g}, {high:g}]; got {distribution!r}")
    return axis


def _choices(name: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return [round(distribution.low + step * distribution.step, 9) for step in range(steps + 1)]
    if isinstance(distribution, CategoricalDistribution) and all(map(_is_number, distribution.choices)):
        return list(distribution.choices)
    raise ConfigError(f"{name} must be suggested as a float or as a choice of numbers; got {distribution!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _repeated(search: AdaptiveSearch, records: Sequence[TrialRecord]) -> Proposal:
    """The best rate of a finished search, or the last one where nothing was within the budget."""
    moves = search.steps(records)
    feasible = [move for move in moves if move.feasible]
    move = max(feasible, key=lambda each: each.rate) if feasible else moves[-1]
    position = move.position
    return Proposal(
        algorithm=search.algorithm,
        requested_rate=move.rate,
        step=position.step,
        direction=position.direction,
        lr_factor=position.lr_factor,
        start_from=None,
        seed=search.seed,
        epochs=search.patience_epochs,
        initial=False,
    )


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
        proposal = proposed(trial) or {}
        patience = proposal.get("epochs") and proposal["epochs"] + proposal.get("second_chance_epochs", 0)
        others = (each for each in study.get_trials(deepcopy=False) if each.number != trial.number)
        reason = reason_to_stop(
            trial.last_step,
            patience=patience and patience * self._stages,
            total_epochs=trial.last_step + sum(each.last_step or 0 for each in others),
            maximal_total_epochs=self._maximal_total_epochs,
        )
        return reason is not None
