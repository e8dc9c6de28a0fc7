"""What every engine does before a search: opens the directory, and says what the preflight found."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autocompress.errors import StoreError, short
from autocompress.plan import ExperimentPlan, LoopPlan, installed_versions
from autocompress.records import Preflight
from autocompress.registry import algorithm
from autocompress.report.verdict import counted
from autocompress.search.adaptive import SearchLength, of_trials, search_length
from autocompress.search_space import SearchSpace
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory

_SEARCH = ("search_space", "objective", "settings", "tuner", "tuner_arguments", "assessor", "assessor_arguments")
"""What of a plan decides which trials are run; the module may have moved, and engines may be resumed elsewhere."""
_ONLY_CHECKS = (
    *("settings.preflight", "baseline.preflight", "baseline.accuracy_error"),
    *("baseline.seconds", "baseline.fingerprint"),
)


def open_experiment(
    store: ExperimentDirectory, wanted: ExperimentPlan | None = None, *, fingerprint: str | None, logger: logging.Logger
) -> ExperimentPlan:
    """The plan of the experiment in a directory, which is gone on with by whoever holds its lock.

    A line of the journal that a kill cut off is dropped.

    Args:
        store: the experiment's directory.
        wanted: the search that is to be gone on with; None: the one that is there.
        fingerprint: of the module's source as it is now; None where there is no module.
        logger: of the engine, for warnings where the source or a version has changed.

    Raises:
        StoreError: there is no experiment, it is damaged, or of another search.
    """
    plan = ExperimentPlan.read(store)
    if wanted is not None:
        require_same_search(f"the experiment in {store.path}", plan, wanted)
    warn_of_changes(plan, fingerprint, logger)
    store.journal.repair()
    return plan


def warn_of_changes(plan: ExperimentPlan, fingerprint: str | None, logger: logging.Logger) -> None:
    """Warn where the module's source, or a version, is not what it was when the uncompressed model was measured."""
    if fingerprint is not None and fingerprint != plan.measured.fingerprint:
        logger.warning("the module's source has changed since the experiment began; finished trials keep their results")
    installed = installed_versions()
    changed = [
        f"{name} was {known} and is {installed.get(name, 'not installed')}"
        for name, known in plan.versions.items()
        if installed.get(name) != known
    ]
    if changed:
        logger.warning(
            "versions have changed since the experiment began (%s); finished trials keep their results, those to come "
            "may be other ones than they would have been",
            "; ".join(changed),
        )


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


def announce(plan: ExperimentPlan, logger: logging.Logger, length: SearchLength | None) -> None:
    """Log what the preflight found: a line each, warnings as warnings.

    Args:
        plan: with its baseline.
        logger: the engine's.
        length: of the search; None: not known.
    """
    preflight = plan.measured.preflight
    if preflight is None:
        return
    for line in (*findings(preflight), duration(preflight, length)):
        logger.info("preflight: %s", line)
    for warning in preflight.warnings:
        logger.warning("%s", warning)


def longest_text(plan: ExperimentPlan, trials: int | None = None) -> str | None:
    """How long a search takes at most; None where no preflight has timed it."""
    preflight = plan.measured.preflight
    return None if preflight is None else duration(preflight, length_of(plan, trials))


def findings(preflight: Preflight) -> list[str]:
    """What was found of the evaluator, the direction and the training step: a line each, without warnings."""
    return [_evaluator(preflight), _direction(preflight), _step(preflight)]


def duration(preflight: Preflight, length: SearchLength | None) -> str:
    """How long a search takes at most, as far as it is known: training and evaluating, not compressing.

    Args:
        preflight: has the times.
        length: of the search; None: not known.
    """
    if length is None:
        return "search: as long as it is let"
    trials, epochs = counted(length.trials, "trial"), counted(length.epochs, "epoch")
    evaluating = length.evaluations * preflight.evaluation_seconds
    if preflight.step_seconds is None and not preflight.late:
        return f"search: at most {time_text(evaluating)} of evaluation ({trials})"
    if preflight.epoch_seconds is None:
        step = "" if preflight.step_seconds is None else f", a training step {time_text(preflight.step_seconds)}"
        return f"search: at most {trials}, {epochs}; evaluations take {time_text(evaluating)} of it{step}"
    return f"search: at most {time_text(evaluating + length.epochs * preflight.epoch_seconds)} ({trials}, {epochs})"


def length_of(plan: ExperimentPlan, trials: int | None = None) -> SearchLength | None:
    """How long the search of a plan is at most; None where a tuner does not end by itself."""
    settings, every = plan.settings, plan.settings.validate_every_n_epochs
    if not plan.ends_by_itself:
        return None if trials is None else of_trials(trials, settings.patience_epochs * plan.stages, every)
    if isinstance(plan.engine, LoopPlan):
        return search_length(plan.searches, [1], every)
    length = length_of_space(plan.space, settings)
    if trials is None:
        return length
    return length.within(of_trials(trials, settings.most_epochs * plan.stages, every))


def length_of_space(space: SearchSpace, settings: AccuracyAwareSettings) -> SearchLength:
    """How long an adaptive search is at most.

    Raises:
        ConfigError: an algorithm has no rate between the minimal and the maximal compression rate.
    """
    stages = [len(algorithm(each.name).stages) for each in space.algorithms]
    return search_length(settings.searches(space), stages, settings.validate_every_n_epochs)


def time_text(seconds: float) -> str:
    """A duration, such as 0.02 s, 12 min or 3.5 h."""
    if seconds < 100:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _evaluator(preflight: Preflight) -> str:
    first, took = preflight.accuracies[0], time_text(preflight.evaluation_seconds)
    took += "" if preflight.sampling_error is None else ", one value for each sample"
    if preflight.noise is None:
        return f"evaluator: {first:.4g}, {took}"
    if preflight.noise == 0:
        times = "twice" if len(preflight.accuracies) == 2 else f"{len(preflight.accuracies)} times"
        return f"evaluator: {first:.4g}, the same {times}, {took}"
    return f"evaluator: {_listed(preflight.accuracies)}, a noise of {preflight.noise:.2g}, {took}"


def _direction(preflight: Preflight) -> str:
    if preflight.damaged is None:
        return "direction: not checked"
    return f"direction: right ({preflight.damaged:.4g} with the output layer zeroed)"


def _step(preflight: Preflight) -> str:
    if preflight.step_seconds is None and not preflight.late:
        return "training step: none, models are only evaluated"
    took = "not waited for" if preflight.step_seconds is None else time_text(preflight.step_seconds)
    return f"training step: {took}" + ("" if preflight.loss is None else f", loss {preflight.loss:.3g}")


def _listed(accuracies: Sequence[float]) -> str:
    return ", ".join(f"{each:.4g}" for each in accuracies)
