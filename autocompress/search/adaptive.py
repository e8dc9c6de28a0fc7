"""The adaptive search of one algorithm: what it tries next, what may be tried ahead, and how long it takes at most."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from autocompress.records import Proposal, TrialRecord
from autocompress.search.step_halving import Position, StepHalving


@dataclass(frozen=True)
class RateAxis:
    """A range of compression rates, continuous or a list of allowed ones."""

    low: float  # lowest rate
    high: float  # highest rate
    # the allowed rates in ascending order; None where every rate from low to high is allowed
    allowed: tuple[float, ...] | None = None

    def snap(self, rate: float) -> float:
        """The allowed rate nearest to `rate`, the lower one of two equally near."""
        if self.allowed is None:
            return min(max(rate, self.low), self.high)
        return min(self.allowed, key=lambda known: (abs(known - rate), known))


LOST_TRIALS_UNTIL_INFEASIBLE = 3
"""How often a trial may be killed at one rate before the rate counts as infeasible."""


@dataclass(frozen=True)
class SearchStep:
    """One decided step of the search."""

    position: Position  # where the rule stood
    rate: float  # the rate that was requested there, snapped to the axis
    record: TrialRecord  # the trial that decided it
    feasible: bool  # the verdict
    trained: bool  # False where an earlier trial at the same rate answered


@dataclass(frozen=True)
class AdaptiveSearch:
    """The adaptive search of one algorithm."""

    algorithm: str  # name of the algorithm
    axis: RateAxis  # the rates that can be requested
    rule: StepHalving  # the step-halving rule over that axis
    initial_epochs: int = 5  # the most epochs of the first trial (NNCF's initial training phase)
    patience_epochs: int = 3  # the most epochs of every other trial
    maximal_total_epochs: int = 10_000  # of all trials, after which the search ends
    # start each trial from the checkpoint of the highest feasible rate so far (NNCF), else from the pretrained model
    warm_start: bool = True
    seed: int = 0  # seed of every trial

    def next(self, records: Iterable[TrialRecord]) -> Proposal | None:
        """The next proposal given all records so far, or None when the search is finished."""
        moves, position = self._walked(_decided(records, self.algorithm))
        remaining = self.maximal_total_epochs - sum(move.record.epochs for move in moves if move.trained)
        if position is None or remaining <= 0:
            return None
        return self._proposal(position, moves, remaining)

    def steps(self, records: Iterable[TrialRecord]) -> list[SearchStep]:
        """The path of the search so far: every decided position in order."""
        return self._walked(_decided(records, self.algorithm))[0]

    def _walked(self, decided: Mapping[float | None, TrialRecord]) -> tuple[list[SearchStep], Position | None]:
        """The path, and the first undecided position; None at the search's end."""
        moves: list[SearchStep] = []
        seen: set[float] = set()
        position: Position | None = self.rule.start()
        while position is not None:
            rate = self.axis.snap(position.rate)
            record = decided.get(rate)
            if record is None:
                break
            moves.append(SearchStep(position, rate, record, record.feasible, trained=rate not in seen))
            seen.add(rate)
            position = self.rule.advance(position, record.feasible)
        return moves, position

    def _proposal(self, position: Position, moves: Sequence[SearchStep], remaining: int) -> Proposal:
        rate = self.axis.snap(position.rate)
        return Proposal(
            algorithm=self.algorithm,
            requested_rate=rate,
            step=position.step,
            direction=position.direction,
            lr_factor=position.lr_factor,
            start_from=_best_start(moves, rate) if self.warm_start else None,
            seed=self.seed,
            epochs=min(self.patience_epochs if moves else self.initial_epochs, remaining),
            initial=not moves,
        )


@dataclass(frozen=True)
class SingleTrial:
    """The search of an algorithm without an adaptive rate: one trial, from the pretrained model."""

    algorithm: str
    epochs: int = 5
    seed: int = 0

    def next(self, records: Iterable[TrialRecord]) -> Proposal | None:
        """The one proposal, or None when it has been decided."""
        if _decided(records, self.algorithm):
            return None
        return Proposal(self.algorithm, None, 0.0, 0, 1.0, None, self.seed, self.epochs, initial=True)

    def steps(self, records: Iterable[TrialRecord]) -> list[SearchStep]:  # noqa: ARG002 - the interface of AdaptiveSearch
        """It has no path."""
        return []


SearchRule = AdaptiveSearch | SingleTrial


def proposals(searches: Sequence[SearchRule], records: Sequence[TrialRecord]) -> list[Proposal]:
    """Every open proposal, at most one per search; empty when all searches are finished."""
    open_ones = (search.next(records) for search in searches)
    return [proposal for proposal in open_ones if proposal is not None]


def _decided(records: Iterable[TrialRecord], algorithm: str) -> dict[float | None, TrialRecord]:
    """The record that decides each rate: the first that is not lost, or the third that is."""
    decided: dict[float | None, TrialRecord] = {}
    lost: dict[float | None, int] = {}
    for record in records:
        if record.algorithm != algorithm:
            continue
        rate = record.requested_rate
        if record.state == "lost":
            lost[rate] = lost.get(rate, 0) + 1
            if lost[rate] < LOST_TRIALS_UNTIL_INFEASIBLE:
                continue
        decided.setdefault(rate, record)
    return decided


def _best_start(moves: Sequence[SearchStep], rate: float) -> str | None:
    """Key of the feasible trial with the highest rate not above `rate`: removed filters cannot come back."""
    candidates = [move for move in moves if move.feasible and move.record.checkpoint and move.rate <= rate]
    return max(candidates, key=lambda move: move.rate).record.key if candidates else None


def reason_to_stop(epoch: int, *, patience: int | None, total_epochs: int, maximal_total_epochs: int) -> str | None:
    """Why a trial that has just finished an epoch must end, or None to let it go on.

    A trial of autocompress ends at its patience by itself, so only going beyond it is a reason. `total_epochs` are of
    all trials that share `maximal_total_epochs`, this one included.
    """
    if patience is not None and epoch > patience:
        return f"patience used up: epoch {epoch} of {patience}"
    if total_epochs > maximal_total_epochs:
        return f"total epochs used up: {total_epochs} of {maximal_total_epochs}"
    return None


def next_speculative(
    search: SearchRule, records: Sequence[TrialRecord], running: Collection[float | None]
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


def search_length(searches: Iterable[SearchRule], stages: Sequence[int], validate_every: int) -> SearchLength:
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


def _search_length(search: SearchRule, stages: int, validate_every: int) -> SearchLength:
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
