"""When a running trial is to be ended early: its patience, or the epochs of the whole search, are used up."""

from __future__ import annotations


def reason_to_stop(epoch: int, *, patience: int | None, total_epochs: int, maximal_total_epochs: int) -> str | None:
    """Why a trial that has just finished an epoch must end, or None to let it go on.

    A trial of autocompress leaves by itself at the end of its patience, so only going beyond it is a reason.

    Args:
        epoch: epochs this trial has done, from 1.
        patience: the most epochs it was given; None where it has no limit of its own.
        total_epochs: epochs done by all trials that share the limit, this one included.
        maximal_total_epochs: the most epochs of all of them together.
    """
    if patience is not None and epoch > patience:
        return f"patience used up: epoch {epoch} of {patience}"
    if total_epochs > maximal_total_epochs:
        return f"total epochs used up: {total_epochs} of {maximal_total_epochs}"
    return None
