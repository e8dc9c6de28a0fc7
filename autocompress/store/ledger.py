"""The state of an experiment: its journal, replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from autocompress.errors import StoreError, short
from autocompress.records import Key, Proposal, Purpose, TrialRecord
from autocompress.store.directory import ExperimentDirectory
from autocompress.typed_fields import checked, from_fields


class SearchParameters(TypedDict):
    """What a search adds to the parameters of a trial, under `search`; all may be missing."""

    requested_rate: float | None
    lr_factor: float
    start_from: Key | None
    seed: int
    epochs: int | None
    default_epochs: int
    initial: bool
    validate_before_training: bool
    validate_every_n_epochs: int
    objective: str
    knowledge_distillation: dict[str, Any] | None
    purpose: Purpose
    steps_per_epoch: int | None
    fine_tuning_schedule: Literal["constant", "linear", "cosine"]
    weight_averaging: Literal["ema", "swa"] | None
    second_chance_epochs: int
    pruning_steps: int
    confidence: float
    probe: str


@dataclass(frozen=True)
class PendingTrial:
    """A trial that was proposed and has no result yet.

    Attributes:
        key: the trial's key.
        parameters: the JSON object it was given.
        proposal: what the rule proposed; None where a built-in tuner chose.
    """

    key: Key
    parameters: dict[str, Any]
    proposal: Proposal | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PendingTrial:
        """A trial from the journal or from a study of Optuna's: `key`, `parameters` and `proposal`."""
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls) if field.name in data}
        if fields.get("proposal") is not None:
            fields["proposal"] = Proposal.from_dict(fields["proposal"])
        trial = from_fields(cls, fields)
        _require_algorithm(trial.parameters)
        return trial


def _require_algorithm(parameters: Mapping[str, Any]) -> None:
    chosen = parameters.get("algorithm_name")
    if not isinstance(chosen, dict) or not isinstance(chosen.get("_name"), str):
        raise StoreError(f"a trial's parameters must have the algorithm's name; got {short(dict(parameters))}")
    for name, value in chosen.items():
        if name.endswith("::sparsity") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise StoreError(f"a trial's parameters: {name} must be a number; got {short(value)}")
    if parameters.get("search") is not None:
        checked(SearchParameters, "'search' of a trial's parameters", parameters["search"])


def killed_message(signal: str = "") -> str:
    """Message for a killed process; `signal` is the signal's name, where it is known."""
    by = f" by {signal}" if signal else ""
    hint = " (the machine may have been out of memory)" if signal == "SIGKILL" else ""
    return f"the trial's process was killed{by}{hint}"


WITHOUT_RESULT = "the trial's process ended without a result"
"""Stands as output of a trial that ended by itself, as by `os._exit(0)`."""


def record_without_result(trial: PendingTrial, crash: str | None, killed: str | None = None) -> TrialRecord:
    """The record of a trial that ended without a result: failed with the last line of `crash`, else lost."""
    return TrialRecord(
        key=trial.key,
        algorithm=str(trial.parameters["algorithm_name"]["_name"]),
        state="lost" if crash is None else "failed",
        parameters=trial.parameters,
        requested_rate=trial.proposal.requested_rate if trial.proposal else None,
        **({} if trial.proposal is None else _of_proposal(trial.proposal)),
        error=(killed or killed_message()) if crash is None else _reason(crash),
    )


def _of_proposal(proposal: Proposal) -> dict[str, Any]:
    return {"lr_factor": proposal.lr_factor, "seed": proposal.seed, "start_from": proposal.start_from}


def _reason(crash: str) -> str:
    lines = crash.splitlines()
    if any(line.startswith("Timeout (") for line in lines):  # faulthandler's
        return "the trial took longer than maximal_trial_seconds; its traceback shows where it was"
    return lines[-1]


@dataclass(frozen=True)
class Verdict:
    """The verification of a checkpoint that was loaded afresh at the end of the search.

    Attributes:
        accuracy: on validation data, in the evaluator's unit.
        holdout_accuracy: on hold-out data; None without a hold-out evaluator.
        feasible: whether it stays within the budget.
    """

    accuracy: float
    holdout_accuracy: float | None
    feasible: bool


@dataclass(frozen=True)
class _Verdict(Verdict):
    key: Key


class Ledger:
    """All records and pending trials of an experiment; every change is written to the journal first."""

    def __init__(self, directory: ExperimentDirectory) -> None:
        self.directory = directory
        self.records: list[TrialRecord] = []
        self.open: dict[str, PendingTrial] = {}
        self.proposed: dict[str, PendingTrial] = {}
        self.verdicts: dict[str, Verdict] = {}
        self._replayed = 0
        self.refresh()

    @property
    def not_disproved(self) -> list[TrialRecord]:
        """The records that no verdict contradicts."""
        verdicts = self.verdicts
        return [each for each in self.records if each.key not in verdicts or verdicts[each.key].feasible]

    def refresh(self) -> None:
        """Replay what others have written since."""
        journal = self.directory.journal
        if journal.size() < self._replayed:
            raise StoreError(f"the journal {journal.path} must only grow; it has become shorter")
        events, self._replayed = journal.read_on(self._replayed)
        for event in events:
            self._replay(event)

    def propose(self, trial: PendingTrial) -> None:
        """Note that a trial is about to run; a pending trial is noted once."""
        if trial.key in self.open:
            return
        proposal = trial.proposal.to_dict() if trial.proposal else None
        self._append("proposal", key=trial.key, parameters=trial.parameters, proposal=proposal)
        self.open[trial.key] = self.proposed[trial.key] = trial

    def add(self, record: TrialRecord) -> None:
        """Note the result of a trial."""
        self._append("result", record=record.to_dict())
        self._add(record)

    def settle(self, key: str, *, stopped_counts: bool = True) -> TrialRecord | None:
        """Take the result of a pending trial from its directory; None while there is none.

        An interrupted trial counts unless the whole search was stopped (`stopped_counts`).
        """
        known = next((record for record in self.records if record.key == key and record.state != "lost"), None)
        if known is not None and key not in self.open:
            return known
        record = self.directory.trial(key).record()
        if record is None or (record.state == "stopped" and not stopped_counts):
            return None
        self.add(record)
        return record

    def close(self, key: str, crash: str | None = None, killed: str | None = None) -> TrialRecord:
        """Note that a pending trial ended without a result: it crashed with that output, or was killed."""
        record = record_without_result(self.open[key], crash, killed)
        if crash is not None:
            self.directory.trial(key).write_traceback(crash)
        self.add(record)
        return record

    def add_verdict(self, key: str, verdict: Verdict) -> None:
        """Note the verification of a trial's checkpoint."""
        self._append("verdict", key=key, **dataclasses.asdict(verdict))
        self.verdicts[key] = verdict

    def settle_ended(self) -> None:
        """Take the results of trials that ended while no launcher ran."""
        for key in list(self.open):
            self.settle(key, stopped_counts=False)

    def _append(self, event: str, **content: Any) -> None:
        self.directory.journal.append(event, **content)
        self._replayed = self.directory.journal.size()

    def _replay(self, event: Mapping[str, Any]) -> None:
        kind = event.get("event")
        if kind == "proposal":
            trial = PendingTrial.from_dict(event)
            self.open[trial.key] = self.proposed[trial.key] = trial
        elif kind == "result":
            self._add(TrialRecord.from_dict(event.get("record", {})))
        elif kind == "verdict":
            verdict = from_fields(_Verdict, {name: value for name, value in event.items() if name != "event"})
            self.verdicts[verdict.key] = Verdict(verdict.accuracy, verdict.holdout_accuracy, verdict.feasible)

    def _add(self, record: TrialRecord) -> None:
        self.open.pop(record.key, None)
        self.records.append(record)
