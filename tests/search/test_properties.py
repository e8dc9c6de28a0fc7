"""What holds for every setting and every answer."""

from __future__ import annotations

import json
import random

from hypothesis import assume, given
from hypothesis import strategies as st

from autocompress.records import TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis, StepHalving, best
from tests.search.support import answer, run_search, trial

ROUNDED = 1e-8  # rates are rounded to 1e-9 after each move


@st.composite
def rules(draw, *, halving=False):
    """Any legal settings; with `halving` such as the defaults: the steps hit the minimum exactly."""
    low, high = sorted((draw(st.floats(0, 1)), draw(st.floats(0, 1))))
    minimal_step = draw(st.floats(0.004, 0.3))
    if halving:
        factor, initial_step = 0.5, minimal_step * 2 ** draw(st.integers(0, 4))
    else:
        factor, initial_step = draw(st.floats(0.05, 0.9)), minimal_step * draw(st.floats(1, 50))
    return StepHalving(
        initial_rate=min(max(draw(st.floats(low, high)), low), high),
        initial_step=initial_step,
        minimal_step=minimal_step,
        reduction_factor=factor,
        lr_reduction_factor=draw(st.floats(0.1, 1)),
        minimal_rate=low,
        maximal_rate=high,
    )


@st.composite
def searches(draw, **which):
    rule = draw(rules(**which))
    low, high = rule.minimal_rate, rule.maximal_rate
    allowed = None
    if draw(st.booleans()):
        allowed = tuple(sorted({low, high, *draw(st.lists(st.floats(low, high), max_size=6))}))
    return AdaptiveSearch(
        "l1",
        RateAxis(low, high, allowed),
        rule,
        initial_epochs=draw(st.integers(0, 5)),
        patience_epochs=draw(st.integers(1, 5)),
        maximal_total_epochs=draw(st.sampled_from([1, 7, 30, 10_000])),
        warm_start=draw(st.booleans()),
    )


truths = st.floats(-0.1, 1.1)
answers = st.integers(0, 2**32).map(random.Random)


def states(dice):
    return dice.choices(["completed", "stopped", "failed", "lost"], [6, 1, 1, 2])[0]


def run_wildly(search, dice, limit=5000):
    """Run a search to its end with any answers: verdicts, failures, losses, epochs."""
    proposals, records = [], []
    while (proposal := search.next(records)) is not None:
        assert len(proposals) < limit, f"{search} has not ended after {limit} trials"
        state = states(dice)
        epochs = dice.randint(0, proposal.epochs) if state in ("completed", "stopped") else 0
        proposals.append(proposal)
        records.append(answer(proposal, dice.random() < 0.5, state=state, epochs=epochs))
    return proposals, records


@given(rules(), answers)
def test_the_rule_ends_and_stays_in_bounds(rule, dice):
    position, moves = rule.start(), 0
    while position is not None:
        assert rule.minimal_rate - ROUNDED <= position.rate <= rule.maximal_rate + ROUNDED, position
        assert rule.minimal_step <= position.step <= rule.initial_step, position
        assert 0 < position.lr_factor <= 1, position
        moves += 1
        assert moves < 50_000, f"{rule} has not ended after {moves} moves; it stands at {position}"
        position = rule.advance(position, dice.random() < 0.5)


@given(rules(), st.booleans())
def test_the_rule_ends_when_every_answer_is_the_same(rule, verdict):
    position, moves = rule.start(), 0
    while (after := rule.advance(position, verdict)) is not None:
        assert (after.rate > position.rate) is verdict, f"{after} after {position}"
        position, moves = after, moves + 1
        assert moves <= 1 / rule.minimal_step + 2, f"{rule} stands at {position} after {moves} moves"
    assert abs(position.rate - (rule.maximal_rate if verdict else rule.minimal_rate)) <= ROUNDED


def found_and_truth(rule, truth):
    """The best feasible rate that a search finds on a cliff, and the highest there is; None for none."""
    position, found = rule.start(), None
    while position is not None:
        feasible = position.rate <= truth
        if feasible:
            found = position.rate if found is None else max(found, position.rate)
        position = rule.advance(position, feasible)
    return found, min(truth, rule.maximal_rate) if truth >= rule.minimal_rate else None


def assert_near(rule, truth, bound):
    found, highest = found_and_truth(rule, truth)
    if highest is None:
        assert found is None, f"{found} was found, nothing is feasible"
        return
    assert found is not None, f"nothing was found, {highest} is feasible"
    assert -ROUNDED <= highest - found <= bound + ROUNDED, f"found {found}, the highest is {highest}, off by > {bound}"


@given(rules(halving=True), truths)
def test_on_a_cliff_a_halving_search_ends_within_the_minimal_step_of_the_truth(rule, truth):
    assume(min(abs(truth - rule.minimal_rate), abs(truth - rule.maximal_rate)) > ROUNDED)
    assert_near(rule, truth, rule.minimal_step)


@given(st.floats(-0.1, 1.1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 0.95]))
def test_on_a_cliff_the_defaults_end_within_the_minimal_step_of_the_truth(truth, initial_rate):
    assume(min(abs(truth), abs(truth - 0.95)) > ROUNDED)
    assert_near(StepHalving(initial_rate=initial_rate), truth, 0.025)


@given(rules(), truths)
def test_on_a_cliff_any_search_ends_within_the_last_step_of_the_truth(rule, truth):
    assume(min(abs(truth - rule.minimal_rate), abs(truth - rule.maximal_rate)) > ROUNDED)
    assert_near(rule, truth, rule.minimal_step / rule.reduction_factor)


@given(rules(), truths)
def test_the_memo_finds_what_training_again_would_find(rule, truth):
    search = AdaptiveSearch("l1", RateAxis(rule.minimal_rate, rule.maximal_rate), rule)
    _, records = run_search(search, lambda rate: rate <= truth)
    winner = best(records)
    assume(min(abs(truth - rule.minimal_rate), abs(truth - rule.maximal_rate)) > ROUNDED)
    found, _ = found_and_truth(rule, truth)
    if found is None:
        assert winner is None
    else:
        assert winner is not None, f"nothing was found, {found} is feasible"
        assert abs(winner.requested_rate - found) <= ROUNDED


@given(searches(), answers)
def test_no_rate_is_proposed_twice_unless_its_trial_was_lost(search, dice):
    proposals, records = run_wildly(search, dice)
    decided, lost = set(), {}
    for proposal, record in zip(proposals, records, strict=True):
        rate = proposal.requested_rate
        assert rate not in decided, f"{rate} was proposed again"
        lost[rate] = lost.get(rate, 0) + (record.state == "lost")
        if record.state != "lost" or lost[rate] == 3:
            decided.add(rate)


@given(searches(), answers)
def test_every_proposal_is_on_the_axis(search, dice):
    for proposal in run_wildly(search, dice)[0]:
        rate = proposal.requested_rate
        assert search.axis.low <= rate <= search.axis.high
        assert search.axis.allowed is None or rate in search.axis.allowed


@given(searches(), answers)
def test_any_prefix_of_a_journal_gives_the_same_next_proposal(search, dice):
    """As it is read back from disk."""
    proposals, records = run_wildly(search, dice)
    lines = [json.dumps(record.to_dict(), allow_nan=False) for record in records]
    replayed = [TrialRecord.from_dict(json.loads(line)) for line in lines]
    assert replayed == records
    for count, proposal in enumerate([*proposals, None]):
        assert search.next(replayed[:count]) == proposal, f"after {count} records"
        assert search.next(iter(replayed[:count])) == proposal, f"after {count} records"


@given(searches(), answers)
def test_the_order_of_records_of_different_rates_does_not_matter(search, dice):
    proposals, records = run_wildly(search, dice)
    count = dice.randint(0, len(records))
    known = records[:count]
    shuffled = dice.sample(known, len(known))
    of_a_rate = {
        record.requested_rate: iter([r for r in known if r.requested_rate == record.requested_rate]) for record in known
    }
    in_order_of_each_rate = [next(of_a_rate[record.requested_rate]) for record in shuffled]
    assert search.next(in_order_of_each_rate) == [*proposals, None][count]


@given(searches(), answers)
def test_what_comes_twice_or_belongs_to_others_does_not_matter(search, dice):
    proposals, records = run_wildly(search, dice)
    count = dice.randint(0, len(records))
    mixed = []
    for record in records[:count]:
        mixed.append(trial(record.requested_rate, dice.random() < 0.5, algorithm="l2"))
        mixed += [record] if record.state == "lost" else [record] * dice.randint(1, 3)
    assert search.next(mixed) == [*proposals, None][count]


@given(searches(), answers)
def test_the_start_is_the_highest_feasible_rate_not_above_the_proposed_one(search, dice):
    proposals, records = run_wildly(search, dice)
    for count, proposal in enumerate(proposals):
        walked = {move.rate for move in search.steps(records[:count])}
        rates = [record.requested_rate for record in records[:count] if record.feasible]
        usable = [rate for rate in rates if rate <= proposal.requested_rate and rate in walked]
        expected = f"l1@{max(usable)!r}" if usable and search.warm_start else None
        assert proposal.start_from == expected, f"proposal {count} of {proposals}"


@given(searches(), answers)
def test_the_epochs_are_capped(search, dice):
    proposals, records = run_wildly(search, dice)
    spent = 0
    for count, (proposal, record) in enumerate(zip(proposals, records, strict=True)):
        initial = all(known.state == "lost" for known in records[:count]) and count < 3
        assert proposal.initial is initial, f"proposal {count}"
        limit = search.initial_epochs if initial else search.patience_epochs
        assert proposal.epochs == min(limit, search.maximal_total_epochs - spent), f"{proposal} after {spent} epochs"
        spent += record.epochs
    assert spent <= search.maximal_total_epochs
