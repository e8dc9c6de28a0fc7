"""The adaptive search of one algorithm: what it tries next, what may be tried ahead, and how long it takes at most."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass

from autocompress.records import Proposal, Purpose, TrialRecord
from autocompress.search.noise import is_near_miss, noise_of
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
    learning_rate_factors: tuple[float, ...] = (1.0,)  # tried at the initial rate, if there are several
    look_beyond: bool = False  # try the next higher rate before turning at a near miss
    second_chance: bool = False  # train on at a near miss, for half as many epochs
    final_epochs: int = 0  # for which the best model is trained on at the end
    zero_is_uncompressed: bool = False  # rate 0 is feasible without a trial

    def next(self, records: Iterable[TrialRecord]) -> Proposal | None:
        """The next proposal given all records so far, or None when the search is finished."""
        mine = [record for record in records if record.algorithm == self.algorithm]
        remaining = self.maximal_total_epochs - sum({record.key: record.epochs for record in mine}.values())
        if remaining <= 0:
            return None
        if (factor := self._untried_factor(mine)) is not None:
            return self._proposal(_Path([], self.rule.start()), mine, remaining, factor, "learning_rate")
        path = self._walked(mine)
        if path.open is None:
            return self._final(path, mine, remaining)
        purpose: Purpose = "beyond" if path.is_beyond else "rate"
        return self._proposal(path, mine, remaining, self._best_factor(mine), purpose)

    def most_epochs(self, epochs: int) -> int:
        """The most epochs of a trial of so many, its second chance among them."""
        return with_second_chance(epochs, self.second_chance)

    def steps(self, records: Iterable[TrialRecord]) -> list[SearchStep]:
        """The path of the search so far: every decided position in order."""
        return self._walked([record for record in records if record.algorithm == self.algorithm]).steps

    def _walked(self, mine: Sequence[TrialRecord]) -> _Path:
        """The path, and the first undecided position; None at the search's end."""
        decided = _decided(mine)
        path = _Path([], self.rule.start())
        while path.open is not None and self._take(path, decided):
            position, record = path.steps[-1].position, path.steps[-1].record
            if self.look_beyond and position.direction >= 0 and _is_near_miss(record, mine):
                path.open, path.is_beyond = self.rule.advance(position, True), True
                if path.open is not None and not self._take(path, decided):
                    break
                position = path.steps[-1].position if path.steps[-1].feasible else position
            path.open, path.is_beyond = self.rule.advance(position, path.steps[-1].feasible), False
        return path

    def _take(self, path: _Path, decided: Mapping[float | None, TrialRecord]) -> bool:
        """Add the open position to the steps, if its rate is decided."""
        assert path.open is not None
        rate = self.axis.snap(path.open.rate)
        record = decided.get(rate)
        if record is None and self.zero_is_uncompressed and rate == 0:
            record = TrialRecord("uncompressed", self.algorithm, "completed", requested_rate=0.0, feasible=True)
        if record is None:
            return False
        seen = any(step.rate == rate for step in path.steps)
        path.steps.append(SearchStep(path.open, rate, record, record.feasible, trained=not seen))
        return True

    def _untried_factor(self, mine: Sequence[TrialRecord]) -> float | None:
        """The first learning-rate factor that no trial has tried.

        None where there is no choice, the search has gone on, or the initial rate takes no training.
        """
        trials = _learning_rate_trials(mine)
        if len(self.learning_rate_factors) == 1 or any(record.purpose == "rate" for record in mine):
            return None
        if any(record.feasible and not record.epochs for record in trials):
            return None
        tried = {record.lr_factor for record in trials}
        return next((factor for factor in self.learning_rate_factors if factor not in tried), None)

    def _best_factor(self, mine: Sequence[TrialRecord]) -> float:
        """The factor whose trial came nearest to the budget, or furthest inside; the first where none was tried."""
        tried = [record for record in _learning_rate_trials(mine) if record.accuracy_margin is not None]
        best = max(tried, key=lambda record: record.accuracy_margin or 0.0, default=None)
        return self.learning_rate_factors[0] if best is None else best.lr_factor

    def _final(self, path: _Path, mine: Sequence[TrialRecord], remaining: int) -> Proposal | None:
        """Training of the best model to the end of the schedule; None where there is none, or it has been trained."""
        kept = [step for step in path.steps if step.feasible and step.record.checkpoint]
        if not self.final_epochs or not kept or any(each.purpose == "final" for each in mine):
            return None
        best = max(kept, key=lambda step: step.rate)
        end = _Path(path.steps, best.position)
        return self._proposal(end, mine, remaining, self._best_factor(mine), "final")

    def _most_epochs(self, purpose: Purpose, initial: bool) -> int:
        own = {"learning_rate": LEARNING_RATE_EPOCHS, "final": self.final_epochs}
        return own.get(purpose, self.initial_epochs if initial else self.patience_epochs)

    def _proposal(
        self, path: _Path, mine: Sequence[TrialRecord], remaining: int, factor: float, purpose: Purpose
    ) -> Proposal:
        assert path.open is not None
        epochs = min(self._most_epochs(purpose, not path.steps), remaining)
        second = min(self.most_epochs(epochs), remaining) - epochs
        rate, position = self.axis.snap(path.open.rate), path.open
        return Proposal(
            algorithm=self.algorithm,
            requested_rate=rate,
            step=position.step,
            direction=position.direction,
            lr_factor=position.lr_factor * factor,
            start_from=_best_start(path.steps, rate) if self.warm_start or purpose == "final" else None,
            seed=self.seed,
            epochs=epochs,
            initial=not path.steps,
            purpose=purpose,
            steps_per_epoch=next((each.steps_per_epoch for each in mine if each.steps_per_epoch), None),
            second_chance_epochs=second if purpose in ("rate", "beyond") else 0,
        )


def with_second_chance(epochs: int, allowed: bool) -> int:
    """The most epochs of a trial of so many: half as many more where a near miss is trained on."""
    return epochs + math.ceil(epochs / 2) * allowed


LEARNING_RATE_EPOCHS = 1
"""Of a trial of a learning rate."""


@dataclass
class _Path:
    """A search so far.

    Attributes:
        steps: decided positions in order.
        open: the next position; None at the end.
        is_beyond: whether that lies beyond a near miss.
    """

    steps: list[SearchStep]
    open: Position | None
    is_beyond: bool = False


def _is_near_miss(record: TrialRecord, records: Sequence[TrialRecord]) -> bool:
    """Whether a trial is outside the budget by no more than the noise.

    By its samples, or by the accuracies of the trials of rates up to this one: what is decided stays.
    """
    if record.feasible:
        return False
    index = next(number for number, each in enumerate(records) if each is record)
    seen = [each for each in records[: index + 1] if each.purpose in ("rate", "beyond")]
    return is_near_miss(record.accuracy_margin, noise_of(record, seen), record.required_margin)


def _learning_rate_trials(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that count: the first of each factor that is not lost, or the third that is."""
    tried: dict[float, list[TrialRecord]] = {}
    for record in records:
        if record.purpose == "learning_rate":
            tried.setdefault(record.lr_factor, []).append(record)
    return [chosen for some in tried.values() if (chosen := _counting(some)) is not None]


def _counting(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """Of the trials of one thing the one that counts: the first that is not lost, or the third that is."""
    lost = 0
    for record in records:
        lost += record.state == "lost"
        if record.state != "lost" or lost == LOST_TRIALS_UNTIL_INFEASIBLE:
            return record
    return None


@dataclass(frozen=True)
class SingleTrial:
    """The search of an algorithm without an adaptive rate: one trial, from the pretrained model."""

    algorithm: str
    epochs: int = 5
    seed: int = 0

    def next(self, records: Iterable[TrialRecord]) -> Proposal | None:
        """The one proposal, or None when it has been decided."""
        if _decided(record for record in records if record.algorithm == self.algorithm):
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


def _decided(mine: Iterable[TrialRecord]) -> dict[float | None, TrialRecord]:
    """The record that decides each rate: the first that is not lost, or the third that is.

    A trial of a learning rate does where it is feasible; the training of the best model never does.
    """
    by_rate: dict[float | None, list[TrialRecord]] = {}
    for record in mine:
        if record.purpose in ("rate", "beyond") or (record.purpose == "learning_rate" and record.feasible):
            by_rate.setdefault(record.requested_rate, []).append(record)
    return {rate: chosen for rate, some in by_rate.items() if (chosen := _counting(some)) is not None}


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
    initial, patience = search.most_epochs(search.initial_epochs), search.most_epochs(search.patience_epochs)
    factors = len(search.learning_rate_factors) if len(search.learning_rate_factors) > 1 else 0
    parts = [
        of_trials(factors, LEARNING_RATE_EPOCHS * stages, validate_every),
        of_trials(1, initial * stages, validate_every),
        of_trials(max_trials(search.rule, look_beyond=search.look_beyond) - 1, patience * stages, validate_every),
        of_trials(int(search.final_epochs > 0), search.final_epochs * stages, validate_every),
    ]
    trials, epochs, evaluations = (sum(each) for each in zip(*map(astuple, parts), strict=True))
    return SearchLength(trials, min(epochs, search.maximal_total_epochs * stages), evaluations)


def max_trials(rule: StepHalving, *, look_beyond: bool = False) -> int:
    """The most rates that the rule tries where all up to some rate are feasible and all above are not."""
    span = rule.maximal_rate - rule.minimal_rate
    edges = min(_MOST_EDGES, math.ceil(4 * span / rule.minimal_step) + 1)
    places = (rule.minimal_rate + span * (edge + 0.5) / edges for edge in range(-1, edges + 1))
    return max(_tried(rule, edge, look_beyond) for edge in places)


def _tried(rule: StepHalving, edge: float, look_beyond: bool) -> int:
    rates, position = set[float](), rule.start()
    while position is not None:
        rates.add(position.rate)
        feasible = position.rate <= edge
        beyond = rule.advance(position, True) if look_beyond and not feasible and position.direction >= 0 else None
        rates |= {beyond.rate} if beyond else set()
        position = rule.advance(position, feasible)  # type: ignore[assignment]
    return len(rates)
