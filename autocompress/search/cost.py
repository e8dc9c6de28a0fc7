"""Upper bounds on the trials and epochs of a search."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass

from autocompress.search.adaptive import AdaptiveSearch, Search
from autocompress.search.step_halving import StepHalving

_MOST_EDGES = 400


@dataclass(frozen=True)
class SearchLength:
    """Upper bounds."""

    trials: int  # that are run
    epochs: int  # of training, of all trials
    evaluations: int  # of all trials

    def within(self, other: SearchLength) -> SearchLength:
        """The smaller of each bound."""
        return SearchLength(*map(min, astuple(self), astuple(other)))


def search_length(searches: Iterable[Search], stages: Sequence[int], validate_every: int) -> SearchLength:
    """The bounds of searches whose accuracy falls as the rate rises.

    `stages`: for each search, how many algorithms a trial applies one after the other, each with its own epochs.
    """
    lengths = [_search_length(*pair, validate_every) for pair in zip(searches, stages, strict=True)]
    return SearchLength(
        trials=sum(each.trials for each in lengths),
        epochs=sum(each.epochs for each in lengths),
        evaluations=sum(each.evaluations for each in lengths),
    )


def of_trials(trials: int, epochs: int, validate_every: int) -> SearchLength:
    """The bounds of `trials` trials of `epochs` epochs, with an evaluation before the first epoch."""
    return SearchLength(trials, trials * epochs, trials * (math.ceil(epochs / validate_every) + 1))


def _search_length(search: Search, stages: int, validate_every: int) -> SearchLength:
    if not isinstance(search, AdaptiveSearch):
        return of_trials(1, search.epochs * stages, validate_every)
    first = of_trials(1, search.initial_epochs * stages, validate_every)
    others = of_trials(max_trials(search.rule) - 1, search.patience_epochs * stages, validate_every)
    epochs = min(first.epochs + others.epochs, search.maximal_total_epochs * stages)
    return SearchLength(first.trials + others.trials, epochs, first.evaluations + others.evaluations)


def max_trials(rule: StepHalving) -> int:
    """The most rates that the rule tries where all up to some rate are feasible and all above are not."""
    span = rule.maximal_rate - rule.minimal_rate
    edges = min(_MOST_EDGES, math.ceil(4 * span / rule.minimal_step) + 1)
    return max(_tried(rule, rule.minimal_rate + span * (edge + 0.5) / edges) for edge in range(-1, edges + 1))


def _tried(rule: StepHalving, edge: float) -> int:
    rates, position = set[float](), rule.start()
    while position is not None:
        rates.add(position.rate)
        position = rule.advance(position, position.rate <= edge)  # type: ignore[assignment]
    return len(rates)
