"""What a preflight found, in words, and how long the search will take."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autocompress.plan import ExperimentPlan, LoopEngine
from autocompress.records import Preflight
from autocompress.registry import algorithm
from autocompress.report.data import counted
from autocompress.search.adaptive import SearchLength, of_trials, search_length
from autocompress.search_space import SearchSpace
from autocompress.settings import AccuracyAwareSettings


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
    if isinstance(plan.engine, LoopEngine):
        return search_length(plan.searches, [1], every)
    length = length_of_space(plan.space, settings)
    if trials is None:
        return length
    most = max(settings.initial_training_phase_epochs, settings.patience_epochs)
    return length.within(of_trials(trials, most * plan.stages, every))


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
