"""Work for idle workers is work that the search may ask for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.records import Proposal, TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis, SingleTrial, StepHalving, proposals
from autocompress.search.adaptive import max_trials, next_speculative, of_trials, reason_to_stop, search_length
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from tests.search.support import answer, run_search, trial


@pytest.mark.parametrize(("rate", "snapped"), [(0.0, 0.2), (0.2, 0.2), (0.55, 0.55), (0.9, 0.9), (0.95, 0.9)])
def test_a_continuous_axis_only_clamps(rate, snapped):
    assert RateAxis(0.2, 0.9).snap(rate) == snapped


@pytest.mark.parametrize(
    ("rate", "snapped"),
    [(0.0, 0.25), (0.3, 0.25), (0.4, 0.5), (0.375, 0.25), (0.625, 0.5), (0.63, 0.75), (1.0, 0.75)],
)
def test_a_discrete_axis_takes_the_nearest_and_the_lower_of_two(rate, snapped):
    assert RateAxis(0.25, 0.75, (0.25, 0.5, 0.75)).snap(rate) == snapped


def test_one_allowed_rate():
    assert RateAxis(0.5, 0.5, (0.5,)).snap(0.1) == 0.5


SEARCH = AdaptiveSearch("l1", RateAxis(0.0, 0.95), StepHalving())


def search(**settings):
    return AdaptiveSearch("l1", RateAxis(0.0, 0.95), StepHalving(), **settings)


def rates(found):
    return [proposal.requested_rate for proposal in found]


def test_the_first_proposal_is_the_initial_phase():
    assert search(seed=7).next([]) == Proposal(
        algorithm="l1",
        requested_rate=0.5,
        step=0.1,
        direction=0,
        lr_factor=1.0,
        start_from=None,
        seed=7,
        epochs=5,
        initial=True,
    )


def test_the_others_have_patience_epochs():
    first, *others = run_search(search(initial_epochs=2, patience_epochs=4), lambda rate: rate <= 0.62)[0]
    assert (first.epochs, first.initial) == (2, True)
    assert {(proposal.epochs, proposal.initial) for proposal in others} == {(4, False)}


def test_a_proposal_tells_where_the_rule_stands():
    found, _ = run_search(SEARCH, lambda rate: rate <= 0.62)
    assert [(proposal.requested_rate, proposal.step, proposal.direction, proposal.lr_factor) for proposal in found] == [
        (0.5, 0.1, 0, 1.0),
        (0.6, 0.1, 1, 1.0),
        (0.7, 0.1, 1, 1.0),
        (0.65, 0.05, -1, 0.5),
        (0.625, 0.025, 1, 0.25),
    ]


def test_a_revisited_rate_is_answered_by_its_record():
    found, records = run_search(SEARCH, lambda rate: rate <= 0.62)
    moves = SEARCH.steps(records)
    assert [move.rate for move in moves] == [0.5, 0.6, 0.7, 0.65, 0.6, 0.625]
    assert [move.trained for move in moves] == [True, True, True, True, False, True]
    assert [move.feasible for move in moves] == [True, True, False, False, True, False]
    assert moves[4].record is moves[1].record
    assert len(found) == 5


def test_it_starts_from_the_highest_feasible_rate():
    found, _ = run_search(SEARCH, lambda rate: rate <= 0.62)
    assert [proposal.start_from for proposal in found] == [None, "l1@0.5", "l1@0.6", "l1@0.6", "l1@0.6"]


def test_cold_starts():
    found, _ = run_search(search(warm_start=False), lambda rate: rate <= 0.62)
    assert {proposal.start_from for proposal in found} == {None}


def test_it_does_not_start_from_a_higher_rate():
    """With a factor of 0.6 the way back leads below the highest feasible rate."""
    rule = StepHalving(reduction_factor=0.6)
    steep = AdaptiveSearch("l1", RateAxis(0.0, 0.95), rule)
    found, records = run_search(steep, lambda rate: rate <= 0.61)
    below = next(proposal for proposal in found if proposal.direction == -1 and proposal.requested_rate < 0.6)
    assert below.start_from == "l1@0.5", found
    assert any(record.feasible and record.requested_rate == 0.6 for record in records)


def test_it_does_not_start_from_a_record_without_a_checkpoint():
    records = [trial(0.5), trial(0.6, checkpoint=None)]
    assert SEARCH.next(records).start_from == "l1@0.5"


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_trial_is_proposed_again(lost):
    records = [trial(0.5), *[trial(0.6, state="lost")] * lost]
    assert SEARCH.next(records) == SEARCH.next(records[:1])
    assert SEARCH.next(records).requested_rate == 0.6


def test_the_third_lost_trial_counts_as_infeasible():
    lost = [trial(0.6, state="lost")] * 3
    assert SEARCH.next([trial(0.5), *lost]) == SEARCH.next([trial(0.5), trial(0.6, False)])
    assert SEARCH.next([trial(0.5), *lost]).requested_rate == 0.55


def test_losses_are_counted_for_each_rate_and_algorithm():
    records = [trial(0.5, state="lost")] * 2 + [trial(0.5), *[trial(0.6, state="lost")] * 2]
    others = [trial(0.6, state="lost", algorithm="l2")] * 3
    assert SEARCH.next([*records, *others]).requested_rate == 0.6


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_failed_or_stopped_trial_counts_at_once(state):
    records = [trial(0.5), trial(0.6, False, state=state)]
    assert SEARCH.next(records).requested_rate == 0.55


def test_a_stopped_trial_that_is_feasible_is_feasible():
    assert SEARCH.next([trial(0.5), trial(0.6, state="stopped")]).requested_rate == 0.7


def test_the_first_record_of_a_rate_decides():
    assert SEARCH.next([trial(0.5), trial(0.5, False)]) == SEARCH.next([trial(0.5)])


def test_records_at_other_rates_change_nothing():
    """A built-in tuner's, say."""
    assert SEARCH.next([trial(0.123), trial(0.5), trial(0.9)]) == SEARCH.next([trial(0.5)])


@pytest.mark.parametrize(("maximal", "epochs"), [(100, [5, 3, 3, 3, 3]), (9, [5, 3, 1]), (5, [5]), (3, [3])])
def test_no_more_than_the_maximal_total_epochs(maximal, epochs):
    found, records = [], []
    limited = search(maximal_total_epochs=maximal)
    while (proposal := limited.next(records)) is not None:
        found.append(proposal.epochs)
        records.append(answer(proposal, proposal.requested_rate <= 0.62, epochs=proposal.epochs))
    assert found == epochs
    assert sum(record.epochs for record in records) <= maximal


def test_a_revisit_costs_no_epochs():
    records = [trial(rate, rate <= 0.62, epochs=2) for rate in (0.5, 0.6, 0.7, 0.65)]
    assert search(maximal_total_epochs=9).next(records).epochs == 1, "0.6 was visited twice and trained once"


def test_an_axis_of_allowed_rates():
    axis = RateAxis(0.25, 0.75, (0.25, 0.5, 0.6, 0.75))
    discrete = AdaptiveSearch("l1", axis, StepHalving(minimal_rate=0.25, maximal_rate=0.75))
    found, records = run_search(discrete, lambda rate: rate <= 0.6)
    assert rates(found) == [0.5, 0.6, 0.75]
    assert all(move.rate in axis.allowed for move in discrete.steps(records))
    assert not all(move.trained for move in discrete.steps(records)), "0.65 is 0.6 there"


def test_an_axis_narrower_than_the_step():
    narrow = AdaptiveSearch("l1", RateAxis(0.5, 0.55), StepHalving(minimal_rate=0.5, maximal_rate=0.55))
    assert rates(run_search(narrow, lambda _: True)[0]) == [0.5, 0.55]
    assert rates(run_search(narrow, lambda _: False)[0]) == [0.5]


def test_a_single_trial():
    single = SingleTrial("qat", epochs=4, seed=7)
    assert single.next([]) == Proposal("qat", None, 0.0, 0, 1.0, None, 7, 4, initial=True)
    assert single.next([trial(0.5)]) == single.next([])
    assert single.next([trial(None, algorithm="qat")]) is None
    assert single.next([trial(None, algorithm="qat", state="failed")]) is None
    assert single.steps([trial(None, algorithm="qat")]) == []


def test_a_single_trial_that_is_lost():
    lost = trial(None, algorithm="qat", state="lost")
    single = SingleTrial("qat")
    assert [single.next([lost] * count) is not None for count in range(5)] == [True, True, True, False, False]


def test_several_algorithms_are_searched_side_by_side():
    l1, l2, qat = SEARCH, AdaptiveSearch("l2", RateAxis(0.1, 0.9), StepHalving(minimal_rate=0.1)), SingleTrial("qat")
    searches = (l1, l2, qat)
    assert [proposal.algorithm for proposal in proposals(searches, [])] == ["l1", "l2", "qat"]
    records = [trial(0.5, algorithm="l2"), trial(0.5, False), trial(None, algorithm="qat")]
    opened = proposals(searches, records)
    assert [(proposal.algorithm, proposal.requested_rate) for proposal in opened] == [("l1", 0.4), ("l2", 0.6)]
    assert opened[1].start_from == "l2@0.5", "not the other algorithm's"


def test_no_proposals_when_all_searches_are_finished():
    searches = (SEARCH, SingleTrial("qat"))
    _, records = run_search(SEARCH, lambda rate: rate <= 0.62)
    assert proposals(searches, [*records, trial(None, algorithm="qat")]) == []
    assert proposals((), records) == []


@pytest.mark.parametrize(
    ("epoch", "patience", "total_epochs", "maximal_total_epochs", "reason"),
    [
        (1, 3, 1, 100, None),
        (3, 3, 3, 100, None),  # it leaves by itself
        (4, 3, 4, 100, "patience used up: epoch 4 of 3"),
        (1, 0, 1, 100, "patience used up: epoch 1 of 0"),
        (50, None, 50, 100, None),
        (1, 3, 100, 100, None),
        (1, 3, 101, 100, "total epochs used up: 101 of 100"),
        (50, None, 101, 100, "total epochs used up: 101 of 100"),
        (4, 3, 101, 100, "patience used up: epoch 4 of 3"),
    ],
)
def test_reason_to_stop(epoch, patience, total_epochs, maximal_total_epochs, reason):
    told = reason_to_stop(
        epoch, patience=patience, total_epochs=total_epochs, maximal_total_epochs=maximal_total_epochs
    )
    assert told == reason


def record(rate, edge):
    return TrialRecord(f"{rate}", "l1", "completed", requested_rate=rate, feasible=rate <= edge)


def test_without_running_trials_it_is_the_next_one():
    assert next_speculative(SEARCH, [], ()) == SEARCH.next([])


def test_both_sides_of_a_running_trial_feasible_first():
    running = []
    for _ in range(4):
        running.append(next_speculative(SEARCH, [], running).requested_rate)
    assert running == [0.5, 0.6, 0.4, 0.7]


def test_nothing_is_left_where_all_is_being_tried():
    tight = AdaptiveSearch("l1", RateAxis(0.5, 0.6), StepHalving(minimal_rate=0.5, maximal_rate=0.6))
    running = []
    while (proposal := next_speculative(tight, [], running)) is not None:
        running.append(proposal.requested_rate)
    assert sorted(set(running)) == sorted(running)
    assert all(0.5 <= rate <= 0.6 for rate in running)


@given(edge=st.floats(0, 0.95), workers=st.integers(1, 4))
def test_what_is_prepared_never_changes_the_path(edge, workers):
    alone, beside = [], []
    while (proposal := SEARCH.next(alone)) is not None:
        alone.append(record(proposal.requested_rate, edge))
    while SEARCH.next(beside) is not None:
        running = []
        for _ in range(workers):
            proposal = next_speculative(SEARCH, beside, running)
            running += [] if proposal is None else [proposal.requested_rate]
        beside += [record(rate, edge) for rate in running]
    paths = [[(move.rate, move.feasible) for move in SEARCH.steps(records)] for records in (alone, beside)]
    assert paths[0] == paths[1]


RULES = [
    StepHalving(),
    StepHalving(initial_step=0.3, minimal_step=0.01),
    StepHalving(initial_rate=0.1, initial_step=0.05, minimal_step=0.05),
    StepHalving(minimal_rate=0.5, initial_rate=0.5, maximal_rate=0.5),
]


def tried(rule, edge):
    """The rates that are tried where all up to the edge are feasible."""
    position, rates = rule.start(), []
    while position is not None:
        rates.append(position.rate)
        position = rule.advance(position, position.rate <= edge)
    return set(rates)


@pytest.mark.parametrize("rule", RULES)
def test_no_edge_takes_more_and_one_takes_as_many(rule):
    counts = [len(tried(rule, edge / 2000)) for edge in range(-1, 2002)]
    assert max_trials(rule) == max(counts)


def test_trials_have_an_evaluation_before_their_first_epoch():
    assert of_trials(3, 5, 2) == type(of_trials(0, 0, 1))(trials=3, epochs=15, evaluations=3 * 4)


def test_a_mix_trains_in_each_of_its_stages():
    (search,) = AccuracyAwareSettings().searches(default_space(["l2"]))
    one, two = (search_length([search], [stages], 1) for stages in (1, 2))
    assert one.trials == two.trials == max_trials(search.rule)
    assert one.epochs == 5 + 3 * (one.trials - 1)
    assert two.epochs == 2 * one.epochs


def test_several_searches_and_the_maximal_total_epochs():
    settings = AccuracyAwareSettings(maximal_total_epochs=7)
    (search,) = settings.searches(default_space(["l2"]))
    both = search_length([search, SingleTrial("qat", 4)], [1, 1], 1)
    assert both.epochs == 7 + 4
    assert both.trials == max_trials(search.rule) + 1


def test_it_holds_for_every_rule_that_is_likely():
    for start, step in itertools.product((0.1, 0.5, 0.9), (0.025, 0.1, 0.4)):
        rule = StepHalving(initial_rate=start, initial_step=step)
        assert max_trials(rule) >= len(tried(rule, start)), rule
