"""Records of trials that nobody trained, and searches over them."""

from __future__ import annotations

from autocompress.records import TrialRecord


def trial(rate, feasible=True, *, algorithm="l1", state="completed", key=None, checkpoint="checkpoint", **fields):
    """A record as the trial runner writes it: a rate that was tried, and the verdict."""
    key = key or f"{algorithm}@{rate!r}"
    ended = state in ("completed", "stopped")
    budget = 0.01 if feasible else -0.01
    return TrialRecord(
        **{
            "key": key,
            "algorithm": algorithm,
            "state": state,
            "parameters": {"algorithm_name": {"_name": algorithm}},
            "requested_rate": rate,
            "accuracy": 0.9 + budget if ended else None,
            "accuracy_margin": budget if ended else None,
            "feasible": feasible and ended,
            "score": (rate if feasible else budget / 0.9) if ended else None,
            "achieved_rate": rate if ended else None,
            "epochs": 1 if ended else 0,
            "checkpoint": f"trials/{key}/{checkpoint}" if ended and checkpoint else None,
            "error": {"failed": "the trainer is broken", "lost": "the trial's process was killed"}.get(state),
            **fields,
        }
    )


def answer(proposal, feasible, **fields):
    """The record of a proposal's trial."""
    given = {
        "algorithm": proposal.algorithm,
        "lr_factor": proposal.lr_factor,
        "start_from": proposal.start_from,
        "seed": proposal.seed,
        "key": None
        if proposal.purpose == "rate"
        else f"{proposal.purpose}@{proposal.requested_rate}*{proposal.lr_factor}",
        "parameters": {
            "algorithm_name": {"_name": proposal.algorithm},
            **({} if proposal.purpose == "rate" else {"search": {"purpose": proposal.purpose}}),
        },
        **fields,
    }
    return trial(proposal.requested_rate, feasible, **given)


def run_search(search, is_feasible, *, limit=5000, **fields):
    """Run a search to its end: its proposals and the records that answered them."""
    proposals, records = [], []
    while (proposal := search.next(records)) is not None:
        assert len(proposals) < limit, f"{search} has not ended after {limit} trials; the last: {proposals[-3:]}"
        proposals.append(proposal)
        records.append(answer(proposal, is_feasible(proposal.requested_rate), **fields))
    return proposals, records
