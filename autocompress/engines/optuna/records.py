"""Our own trials in an Optuna study: what is written on them, and the records that they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autocompress.records import Proposal, TrialRecord
from autocompress.store import OpenTrial, record_of_end

PLAN = "autocompress:plan"
"""User attribute of a study: what is searched, as in `experiment.json`."""

PROPOSAL = "autocompress:proposal"
"""User attribute of a trial: what the rule proposed, as JSON."""

ORDER = "autocompress:order"
"""User attribute of a trial: its `key`, its JSON object as `parameters`, its `proposal` or null. Null: it has none."""

RECORD = "autocompress:record"
"""User attribute of a trial: its result, as JSON."""

INTERRUPTED = "autocompress:interrupted"
"""User attribute of a trial that was stopped with the whole search: it is no result."""


def open_trial(trial: FrozenTrial) -> OpenTrial | None:
    """What the trial was asked to do; None while that is not written."""
    order = trial.user_attrs.get(ORDER)
    if order is None:
        return None
    return OpenTrial(order["key"], order["parameters"], order["proposal"] and Proposal.from_dict(order["proposal"]))


def proposed(trial: FrozenTrial) -> dict[str, Any] | None:
    """What the rule proposed of a trial, as JSON, whether it is our own or of a user's study."""
    order: dict[str, Any] = trial.user_attrs.get(ORDER) or {}
    proposal: dict[str, Any] | None = trial.user_attrs.get(PROPOSAL, order.get("proposal"))
    return proposal


def records_of(trials: Iterable[FrozenTrial]) -> list[TrialRecord]:
    """Of the trials that have ended, in their order, each key once; those whose process was killed are lost."""
    records: dict[Any, TrialRecord] = {}
    for trial in trials:
        asked = open_trial(trial)
        if not trial.state.is_finished() or asked is None or INTERRUPTED in trial.user_attrs:
            continue
        written = trial.user_attrs.get(RECORD)
        record = TrialRecord.from_dict(written) if written else record_of_end(asked, None)
        records.setdefault((trial.number if record.state == "lost" else record.key), record)
    return list(records.values())


def running_keys(trials: Iterable[FrozenTrial]) -> set[str]:
    """Keys of the trials that run."""
    running = (trial.user_attrs.get(ORDER) for trial in trials if trial.state is TrialState.RUNNING)
    return {order["key"] for order in running if order is not None}
