"""The searches of a plan as an Optuna sampler, for `CompressionStudy`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

from optuna import Study, Trial
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from autocompress.engines.optuna.convert import ORDER, KnownRecords, proposed, records_of, running_keys
from autocompress.plan import ExperimentPlan
from autocompress.records import Proposal
from autocompress.search import AdaptiveSearch, proposals
from autocompress.search_space.space import ALGORITHM_KEY, SearchSpace
from autocompress.search_space.values import Values, ValueSpace
from autocompress.store import PendingTrial
from autocompress.trial.spec import trial_key

_RATE = "compression_rate"


class ProposalSampler(BaseSampler):
    """Gives each trial an open proposal that no other trial runs. All state is in the study."""

    def __init__(self, plan: ExperimentPlan) -> None:
        self._plan = plan
        self._known: KnownRecords = {}
        self._searches = plan.searches

    def open(self, trials: Iterable[FrozenTrial]) -> list[Proposal]:
        """All proposals that are open, whether they run or not; empty when the search is finished."""
        return proposals(self._searches, records_of(trials, self._known))

    def free(self, wanted: Iterable[Proposal], trials: Iterable[FrozenTrial]) -> list[Proposal]:
        """Those of the open proposals that none of these trials runs."""
        running = running_keys(trials)
        return [proposal for proposal in wanted if self._key(proposal) not in running]

    def claim(self, study: Study, trial: Trial, proposal: Proposal) -> PendingTrial | None:
        """Write a proposal to a trial, unless another one has it.

        Storages have no transaction for that, so each worker writes first and reads afterwards: of several workers that
        chose the same, those that see another one withdraw.

        Returns:
            None if another worker was faster.
        """
        pending = write_order(trial, self._plan, self._plan.trial_parameters(proposal), proposal)
        others = [each for each in study.get_trials(deepcopy=False) if each.number != trial.number]
        if proposal in self.free(self.open(others), others):
            self._suggest(trial, proposal)
            return pending
        trial.set_user_attr(ORDER, None)
        return None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Empty: parameters are suggested one by one."""
        return {}

    def sample_relative(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Any]:
        """Empty."""
        return {}

    def sample_independent(
        self,
        study: Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Any:
        """The proposed value."""
        proposal = Proposal.from_dict(proposed(trial) or {})
        return proposal.algorithm if param_name == ALGORITHM_KEY else proposal.requested_rate

    def _suggest(self, trial: Trial, proposal: Proposal) -> None:
        """Write the algorithm and the rate to the trial's parameters."""
        trial.suggest_categorical(ALGORITHM_KEY, [search.algorithm for search in self._searches])
        search = next(each for each in self._searches if each.algorithm == proposal.algorithm)
        if isinstance(search, AdaptiveSearch):
            axis, name = search.axis, f"{proposal.algorithm}/{_RATE}"
            if axis.allowed is None:
                trial.suggest_float(name, axis.low, axis.high)
            else:
                trial.suggest_categorical(name, axis.allowed)

    def _key(self, proposal: Proposal) -> str:
        return key_of(self._plan, self._plan.trial_parameters(proposal))


def key_of(plan: ExperimentPlan, parameters: dict[str, Any]) -> str:
    """The key of a trial with these parameters."""
    return trial_key(plan.measured.fingerprint, parameters, plan.threshold)


def write_order(
    trial: Trial, plan: ExperimentPlan, parameters: dict[str, Any], proposal: Proposal | None = None
) -> PendingTrial:
    """Write a trial's order, before it runs."""
    key = key_of(plan, parameters)
    said = proposal and proposal.to_dict()
    trial.set_user_attr(ORDER, {"key": key, "parameters": parameters, "proposal": said})
    return PendingTrial(key, parameters, proposal)


_SIGMAS = 3


def suggest(trial: Trial, space: SearchSpace) -> dict[str, Any]:
    """Suggest an algorithm and its variables; constants are no parameters.

    Parameters are named `algorithm_name` and `<algorithm>/<key>`. Optuna has no normal distribution: values come evenly
    from three sigmas to each side.

    Returns:
        a trial's `algorithm_name`, as NNI's tuners give it.
    """
    name = trial.suggest_categorical(ALGORITHM_KEY, [algorithm.name for algorithm in space.algorithms])
    items = space.algorithm(name).items()
    return {ALGORITHM_KEY: {"_name": name, **{key: _value(trial, f"{name}/{key}", values) for key, values in items}}}


def _value(trial: Trial, name: str, values: Values) -> Any:
    if values.is_constant:
        return values.middle()
    if not isinstance(values, ValueSpace):
        head = {} if values.name is None else {"_name": values.name}
        return {**head, **{member: _value(trial, f"{name}/{member}", inner) for member, inner in values.members}}
    if values.type == "choice":
        return _chosen(trial, name, values.values)
    first, second = values.values[:2]
    if values.type == "randint":
        return trial.suggest_int(name, first, second - 1)
    return _in_range(trial, name, values.type, values.values)


def _chosen(trial: Trial, name: str, options: tuple[Any, ...]) -> Any:
    if all(option is None or isinstance(option, bool | int | float | str) for option in options):
        return trial.suggest_categorical(name, options)
    return copy.deepcopy(options[trial.suggest_categorical(name, range(len(options)))])


def _in_range(trial: Trial, name: str, kind: str, values: tuple[Any, ...]) -> float:
    low, high = values[:2]
    if "normal" in kind:
        low, high = low - _SIGMAS * high, low + _SIGMAS * high
        low, high = (math.exp(low), math.exp(high)) if "log" in kind else (low, high)
    found = trial.suggest_float(name, low, high, log="log" in kind)
    return min(max(round(found / values[2]) * values[2], low), high) if kind.startswith("q") else found
