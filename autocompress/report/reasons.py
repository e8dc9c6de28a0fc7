"""Why each trial was tried: the moves of the rule, told."""

from __future__ import annotations

from autocompress.records import Proposal
from autocompress.report.phrases import number
from autocompress.report.story import Story


def reasons(story: Story) -> list[str]:
    """One for each record, in their order."""
    latest: dict[str, Proposal] = {}
    told = []
    for record in story.records:
        proposal = story.proposals.get(record.key)
        told.append(_reason(story, proposal, latest.get(record.algorithm)))
        if proposal is not None:
            latest[record.algorithm] = proposal
    return told


def _reason(story: Story, proposal: Proposal | None, before: Proposal | None) -> str:
    if proposal is None:
        return f"chosen by {story.tuner}"
    if proposal == before:
        return "run again, as its process was killed"
    if proposal.compression_rate is None:
        return "the algorithm has no rate: tried once"
    if not proposal.direction:
        return "the initial rate"
    found, way = ("within", "up") if proposal.direction > 0 else ("outside", "down")
    turned = before is not None and proposal.step < before.step
    return f"{found}, so {way} by {number(proposal.step)}{' (turned: smaller steps)' if turned else ''}"
