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
    assert one.epochs == 5 + 3 + (3 + 2) * (one.trials - 1), "with second chances"
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


def trained(search, margin_of, *, error=None, limit=60):
    """Run a search whose trials end at margins by purpose, rate and factor: pairs of purpose and rate, and records."""
    found, records = [], []
    while (proposal := search.next(records)) is not None:
        assert len(found) < limit, found
        found.append(proposal)
        margin = margin_of(proposal)
        fields = {"accuracy_margin": margin, "accuracy": 0.9 + margin, "accuracy_error": error}
        records.append(answer(proposal, margin >= 0, **fields))
    return found, records


def test_learning_rates_are_tried_from_the_same_start_and_the_best_is_kept():
    several = search(learning_rate_factors=(1.0, 0.3, 0.1), initial_epochs=5)
    margins = {1.0: -0.02, 0.3: -0.01, 0.1: -0.015}
    found, _records = trained(
        several, lambda each: margins[each.lr_factor] if each.purpose != "rate" else 0.62 - each.requested_rate
    )
    tries, rest = found[:3], found[3:]
    assert [(each.purpose, each.lr_factor, each.epochs, each.start_from) for each in tries] == [
        ("learning_rate", factor, 1, None) for factor in (1.0, 0.3, 0.1)
    ]
    assert (rest[0].purpose, rest[0].lr_factor, rest[0].epochs, rest[0].initial) == ("rate", 0.3, 5, True)
    assert {round(each.lr_factor / 0.3, 9) for each in rest} == {1.0, 0.5, 0.25}, "reduced at turns, too"
    assert rates(rest) == rates(run_search(SEARCH, lambda rate: rate <= 0.62)[0])


def test_a_learning_rate_within_the_budget_decides_the_initial_rate():
    several = search(learning_rate_factors=(1.0, 0.3))
    found, _records = trained(
        several, lambda each: (0.01 if each.lr_factor == 0.3 else -0.01) if each.purpose != "rate" else -0.1
    )
    assert [(each.purpose, each.requested_rate) for each in found[:3]] == [
        ("learning_rate", 0.5),
        ("learning_rate", 0.5),
        ("rate", 0.6),
    ]
    assert found[2].start_from == "learning_rate@0.5*0.3"
    assert found[2].lr_factor == 0.3


def test_a_single_factor_is_not_tried_but_taken():
    assert search(learning_rate_factors=(0.3,)).next([]).lr_factor == 0.3
    assert search(learning_rate_factors=(0.3,)).next([]).purpose == "rate"


def test_all_factors_are_tried_though_the_first_is_within_the_budget():
    found, _ = trained(search(learning_rate_factors=(1.0, 0.3)), lambda each: 0.62 - each.requested_rate)
    assert [(each.purpose, each.lr_factor) for each in found[:2]] == [("learning_rate", 1.0), ("learning_rate", 0.3)]
    assert {each.start_from for each in found[:2]} == {None}
    assert found[2].requested_rate == 0.6


def test_where_the_initial_rate_takes_no_training_no_other_factor_is_tried():
    several = search(learning_rate_factors=(1.0, 0.3))
    first = answer(several.next([]), True, epochs=0)
    assert several.next([first]).requested_rate == 0.6


def test_a_near_miss_stays_one_whatever_comes_later():
    _found, records = trained(search(look_beyond=True), near(0.595), error=0.002)
    for count in range(len(records)):
        steps = search(look_beyond=True).steps(records[:count])
        assert steps == search(look_beyond=True).steps(records)[: len(steps)]


def test_a_lost_trial_of_a_learning_rate_is_tried_again_and_given_up_at_last():
    several, records = search(learning_rate_factors=(1.0, 0.3)), []
    for _ in range(3):
        proposal = several.next(records)
        assert (proposal.purpose, proposal.lr_factor) == ("learning_rate", 1.0)
        records.append(answer(proposal, feasible=False, state="lost"))
    assert several.next(records).lr_factor == 0.3


def near(edge):
    """Margins that fall by a tenth of the rate beyond an edge."""
    return lambda each: (edge - each.requested_rate) / 10


def test_beyond_a_near_miss_one_more_rate_is_tried():
    margins = {0.5: 0.01, 0.6: -0.001, 0.7: 0.001, 0.8: -0.02, 0.75: -0.02, 0.725: -0.02}
    found, _records = trained(search(look_beyond=True), lambda each: margins[each.requested_rate], error=0.002)
    assert [(each.requested_rate, each.purpose) for each in found] == [
        (0.5, "rate"),
        (0.6, "rate"),
        (0.7, "beyond"),
        (0.8, "rate"),
        (0.75, "rate"),
        (0.725, "rate"),
    ]
    assert found[2].start_from == "l1@0.5"
    assert found[3].start_from == "beyond@0.7*1.0"


def test_where_beyond_is_outside_too_the_search_turns_as_ever():
    margins = near(0.595)
    found, _ = trained(search(look_beyond=True), margins, error=0.002)
    plain, _ = trained(search(), margins, error=0.002)
    assert [each for each in found if each.purpose == "rate"] == plain
    assert [each.requested_rate for each in found if each.purpose == "beyond"] == [0.7, 0.625]


@pytest.mark.parametrize("error", [None, 0.0005])
def test_a_clear_miss_is_turned_at(error):
    found, _ = trained(search(look_beyond=True), near(0.55), error=error)
    assert {each.purpose for each in found} == {"rate"}


def test_at_the_highest_rate_nothing_is_beyond():
    short = AdaptiveSearch("l1", RateAxis(0.0, 0.5), StepHalving(maximal_rate=0.5), look_beyond=True)
    found, _ = trained(short, near(0.499), error=1.0)
    assert {each.purpose for each in found} == {"rate"}


def test_the_best_is_trained_to_the_end_once():
    found, records = trained(search(final_epochs=4), lambda each: 0.62 - each.requested_rate)
    *rest, last = found
    assert (last.purpose, last.requested_rate, last.start_from, last.epochs) == ("final", 0.6, "l1@0.6", 4)
    assert {each.purpose for each in rest} == {"rate"}
    assert search(final_epochs=4).steps(records) == search().steps(records[:-1]), "it decides nothing"


def test_without_a_model_nothing_is_trained_to_the_end():
    assert {each.purpose for each in trained(search(final_epochs=4), lambda _: -1.0)[0]} == {"rate"}


def test_rate_0_is_the_uncompressed_model():
    found, records = trained(search(zero_is_uncompressed=True), lambda each: 0.03 - each.requested_rate)
    assert rates(found) == [0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.025]
    assert search(zero_is_uncompressed=True).steps(records)[5].rate == 0.0


def test_second_chances_are_half_as_long_and_within_the_total():
    first = search(second_chance=True).next([])
    assert (first.epochs, first.second_chance_epochs, first.most_epochs) == (5, 3, 8)
    assert search(second_chance=True, maximal_total_epochs=6).next([]).second_chance_epochs == 1
    assert search(second_chance=True, maximal_total_epochs=4).next([]).most_epochs == 4


def test_steps_of_an_epoch_are_passed_on():
    records = [trial(0.5, steps_per_epoch=188)]
    assert SEARCH.next(records).steps_per_epoch == 188


def test_the_length_counts_what_the_options_add():
    plain = search_length([search()], [1], 1)
    longer = search(learning_rate_factors=(1.0, 0.3), final_epochs=2, look_beyond=True)
    assert search_length([longer], [1], 1).trials > plain.trials + 3
    edges = [edge / 400 for edge in range(0, 400, 9)]
    for edge in edges:
        found, _ = trained(longer, lambda each, edge=edge: (edge - each.requested_rate) / 1000, error=1.0)
        assert len(found) <= search_length([longer], [1], 1).trials, edge
        assert sum(each.most_epochs for each in found) <= search_length([longer], [1], 1).epochs
