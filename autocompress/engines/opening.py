"""Opening an experiment that has begun: what makes it the same search, and what an interruption left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from autocompress.errors import StoreError, short
from autocompress.plan import ExperimentPlan
from autocompress.store import ExperimentDirectory

_SEARCH = ("search_space", "objective", "settings", "tuner", "tuner_arguments", "assessor", "assessor_arguments")
"""What of a plan decides which trials are run; the module may have moved, and engines may be resumed elsewhere."""
_ONLY_CHECKS = ("settings.preflight", "baseline.preflight", "baseline.seconds", "baseline.fingerprint")


def open_experiment(
    store: ExperimentDirectory, wanted: ExperimentPlan | None = None, *, fingerprint: str | None, logger: logging.Logger
) -> ExperimentPlan:
    """The plan of the experiment in a directory, which is gone on with by whoever holds its lock.

    A line of the journal that a kill cut off is dropped.

    Args:
        store: the experiment's directory.
        wanted: the search that is to be gone on with; None: the one that is there.
        fingerprint: of the module's source as it is now; None where there is no module.
        logger: of the engine, for a warning where the source has changed.

    Raises:
        StoreError: there is no experiment, it is damaged, or of another search.
    """
    plan = ExperimentPlan.read(store)
    if wanted is not None:
        require_same_search(f"the experiment in {store.path}", plan, wanted)
    warn_of_new_source(plan, fingerprint, logger)
    store.journal.repair()
    return plan


def warn_of_new_source(plan: ExperimentPlan, fingerprint: str | None, logger: logging.Logger) -> None:
    """Warn where the module's source is not what it was when the uncompressed model was measured."""
    if fingerprint is not None and fingerprint != plan.measured.fingerprint:
        logger.warning("the module's source has changed since the experiment began; finished trials keep their results")


def require_same_search(what: str, known: ExperimentPlan, wanted: ExperimentPlan) -> None:
    """Check that going on with an experiment is going on with its search.

    The budget and all other settings count, besides `preflight`; so does the uncompressed model where both have it.

    Args:
        what: of which the message says so.
        known: what has begun.
        wanted: what is to be gone on with.

    Raises:
        StoreError: it is another one; every difference is named.
    """
    names = _SEARCH if wanted.baseline is None or known.baseline is None else (*_SEARCH, "baseline")
    require_same(what, "search", *({name: plan.to_dict()[name] for name in names} for plan in (known, wanted)))


def require_same(what: str, kind: str, known: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that what was written down is what is wanted, as JSON.

    Args:
        what: of which the message says so.
        kind: what it must be the same of: `search`, `comparison`.
        known: as it was written down.
        wanted: as it is now; what only `known` has does not count.

    Raises:
        StoreError: it is not; every difference is named.
    """
    odd = [name for name, value in wanted.items() if any(_differences(name, known.get(name), value))]
    if odd:
        found = "; ".join(each for name in odd for each in _differences(name, known.get(name), wanted[name]))
        raise StoreError(
            f"{what} must be of the same {kind}; its {odd[0]} is another one ({found}): name another directory or study"
        )


def _differences(name: str, known: Any, wanted: Any) -> Iterator[str]:
    """Each entry of two JSON values that differs: `settings.seed is 0, not 1`."""
    if name in _ONLY_CHECKS or known == wanted:
        return
    if isinstance(known, Mapping) and isinstance(wanted, Mapping) and name in ("settings", "baseline"):
        for each in wanted:
            yield from _differences(f"{name}.{each}", known.get(each), wanted[each])
    else:
        yield f"{name} is {short(known)}, not {short(wanted)}"
