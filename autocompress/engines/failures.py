"""Stop a search whose first trials all fail."""

from __future__ import annotations

from collections.abc import Sequence

from autocompress.errors import TrialError
from autocompress.records import TrialRecord
from autocompress.search import LOST_TRIALS_UNTIL_INFEASIBLE
from autocompress.store import ExperimentDirectory

FAILURES_UNTIL_STOP = 3
"""So many failed trials with no other result in between end the experiment: the cause is not the rate."""


def lost_trial_message(lost: TrialRecord, records: Sequence[TrialRecord]) -> str:
    """What to warn of when a trial's process was killed.

    Args:
        lost: the trial's record.
        records: of all trials so far, it among them.
    """
    same = [(record.algorithm, record.requested_rate, record.state) for record in records]
    times = same.count((lost.algorithm, lost.requested_rate, lost.state))
    message = f"trial {lost.key} ({lost.algorithm} at {lost.requested_rate}): {lost.error}"
    if times < LOST_TRIALS_UNTIL_INFEASIBLE:
        return message
    return f"{message}; after {times} such trials the rate counts as infeasible"


def check_failures(records: Sequence[TrialRecord], directory: ExperimentDirectory) -> None:
    """Check that not all of the first trials have failed.

    Args:
        records: of all trials, in the order they ended.
        directory: the experiment's, for the traceback.

    Raises:
        TrialError: they have, with the last reason.
    """
    recent = records[-FAILURES_UNTIL_STOP:]
    ended = any(record.state in ("completed", "stopped") for record in records)
    if ended or len(recent) < FAILURES_UNTIL_STOP or any(record.state != "failed" for record in recent):
        return
    raise TrialError(
        f"all of the first {FAILURES_UNTIL_STOP} trials failed, the last one with {recent[-1].error}",
        directory.trial(recent[-1].key).traceback(),
    )
