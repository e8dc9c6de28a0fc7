"""Proposals for idle workers: what the search will propose whichever way the running trials end."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from autocompress.records import Proposal, TrialRecord
from autocompress.search.adaptive import Search


def next_speculative(
    search: Search, records: Sequence[TrialRecord], running: Collection[float | None]
) -> Proposal | None:
    """The nearest open proposal whose rate is not among `running`; None where every path ends or is being tried.

    Both outcomes of each running trial are followed, feasible first, the nearest decisions first. With no running trial
    it is the search's own next proposal.
    """
    ways = deque([list(records)])
    while ways:
        known = ways.popleft()
        proposal = search.next(known)
        if proposal is None:
            continue
        if proposal.requested_rate not in running:
            return proposal
        ways.extend([*known, _assumed(proposal, feasible)] for feasible in (True, False))
    return None


def _assumed(proposal: Proposal, feasible: bool) -> TrialRecord:
    return TrialRecord(
        key="",
        algorithm=proposal.algorithm,
        state="completed",
        requested_rate=proposal.requested_rate,
        feasible=feasible,
    )
