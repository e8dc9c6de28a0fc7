"""Work for idle workers is work that the search may ask for."""

from hypothesis import given
from hypothesis import strategies as st

from autocompress.records import TrialRecord
from autocompress.search import AdaptiveSearch, RateAxis, StepHalving
from autocompress.search.speculation import next_speculative

SEARCH = AdaptiveSearch("l1", RateAxis(0.0, 0.95), StepHalving())


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
