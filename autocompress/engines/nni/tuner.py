"""The adaptive tuner: step-halving on NNI. It translates; the rule decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.tuner import Tuner

from autocompress.engines.nni.trials import RunningTrials
from autocompress.records import Proposal
from autocompress.search import Search, proposals

_SendTrial = Callable[[int, dict[str, Any]], None]


class Unsent(list[dict[str, Any]]):
    """As long as what NNI asked for, and empty when gone through: the trials are sent later, one by one.

    A shorter list would tell NNI that there are no more trials.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def __len__(self) -> int:
        return self._length


class AdaptiveCompression(Tuner):  # type: ignore[misc]  # NNI is not typed
    """Proposes what the searches propose, as far as NNI has workers for it.

    Args:
        searches: one for each algorithm of the search space.
        trial_parameters: proposal -> the JSON object a trial is given.
        trials: the running trials and the ledger behind them.
    """

    def __init__(
        self, searches: Sequence[Search], trial_parameters: Callable[[Proposal], dict[str, Any]], trials: RunningTrials
    ) -> None:
        self._searches = searches
        self._trial_parameters = trial_parameters
        self._trials = trials
        self._free_ids: list[int] = []
        self._send: _SendTrial | None = None

    def generate_multiple_parameters(
        self, parameter_id_list: list[int], st_callback: _SendTrial | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """NNI has so many free workers, and will not ask for them again."""
        with self._trials.lock:
            self._free_ids.extend(parameter_id_list)
            self._send = st_callback
            self._issue()
        return Unsent(len(parameter_id_list))

    def receive_trial_result(self, parameter_id: int, parameters: Any, value: Any, **_: Any) -> None:  # noqa: ARG002
        """A final metric has arrived; the trial's record is on disk."""
        self._settle(parameter_id, ended=False)

    def trial_end(self, parameter_id: int, success: bool, **_: Any) -> None:  # noqa: ARG002 - the record tells
        """A trial's process has ended."""
        self._settle(parameter_id, ended=True)

    def adopt(self, parameter_id: int, parameters: Mapping[str, Any]) -> None:
        """A trial of before a resume runs again."""
        with self._trials.lock:
            self._trials.adopt(parameter_id, parameters)

    def import_data(self, data: Any) -> None:
        """NNI's own memory of finished trials; the journal knows them already."""

    def update_search_space(self, search_space: Any) -> None:
        """The searches were made from it before the experiment started."""

    def _settle(self, parameter_id: int, *, ended: bool) -> None:
        with self._trials.lock:
            if self._trials.settle(parameter_id, ended=ended) is not None:
                self._issue()

    def _issue(self) -> None:
        wanted = proposals(self._searches, self._trials.ledger.records)
        if not wanted:
            self._trials.finish()
        for proposal in wanted:
            parameters = self._trial_parameters(proposal)
            if self._trials.key(parameters) in self._trials.keys:
                continue
            if not self._free_ids or self._send is None:
                return
            parameter_id = self._free_ids.pop(0)
            self._trials.begin(parameter_id, parameters, proposal)
            self._send(parameter_id, parameters)
