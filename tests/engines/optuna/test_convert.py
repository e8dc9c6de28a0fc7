"""What Optuna's trials say, as records of the rule."""

import datetime

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autocompress.engines.optuna.convert import (
    INTERRUPTED,
    ORDER,
    PROPOSAL,
    RECORD,
    ended,
    open_trial,
    proposed,
    records_of,
    running_keys,
    to_record,
)
from autocompress.store import PendingTrial
from tests.written import SPACE, plan, record

RATE = optuna.distributions.FloatDistribution(0, 1)


def trial(number=0, state=TrialState.COMPLETE, rate=0.5, **attributes):
    value = 1.0 if state is TrialState.COMPLETE else None
    params, distributions = ({"l2": rate}, {"l2": RATE}) if rate is not None else ({}, {})
    made = create_trial(
        state=state,
        value=value,
        params=params,
        distributions=distributions,
        user_attrs=attributes,
    )
    made.number = number
    made.datetime_start = datetime.datetime(2024, 1, 1)
    return made


def order(key="key0"):
    proposal = plan().searches[0].next([])
    return {"key": key, "parameters": plan().trial_parameters(proposal), "proposal": proposal.to_dict()}


@pytest.mark.parametrize(
    ("state", "expected"),
    [(TrialState.COMPLETE, "completed"), (TrialState.PRUNED, "stopped"), (TrialState.FAIL, "lost")],
)
def test_states(state, expected):
    found = to_record(trial(3, state, epochs=2), "l2")
    assert (found.state, found.requested_rate, found.epochs, found.key) == (expected, 0.5, 2, "3")
    assert found.feasible is (expected == "completed")


def test_a_state_that_the_storage_does_not_know_yet():
    assert to_record(trial(state=TrialState.RUNNING), "l2", state=TrialState.PRUNED).state == "stopped"


def test_ended_trials_of_a_rate():
    trials = [trial(0), trial(1, TrialState.RUNNING), trial(2, rate=None), trial(3, TrialState.FAIL)]
    assert [each.number for each in ended(trials, "l2")] == [0, 3]


def test_orders_and_proposals():
    asked = order()
    assert open_trial(trial(**{ORDER: asked})) == PendingTrial.from_dict(asked)
    assert open_trial(trial()) is None
    assert proposed(trial(**{ORDER: asked})) == asked["proposal"]
    assert proposed(trial(**{PROPOSAL: {"requested_rate": 0.3}})) == {"requested_rate": 0.3}
    assert proposed(trial()) is None
    running = trial(state=TrialState.RUNNING, **{ORDER: asked})
    assert running_keys([running, trial(1, **{ORDER: order("other")})]) == {"key0"}


def test_records_each_once_and_those_of_killed_processes_lost():
    whole = record("key0", 0.5, feasible=True)
    trials = [
        trial(0, TrialState.FAIL, **{ORDER: order()}),
        trial(1, **{ORDER: order(), RECORD: whole.to_dict()}),
        trial(2, **{ORDER: order(), RECORD: whole.to_dict()}),
        trial(3, TrialState.FAIL, **{ORDER: order("key3"), INTERRUPTED: True}),
        trial(4, TrialState.RUNNING, **{ORDER: order("key4")}),
        trial(5),
    ]
    known = {}
    found = records_of(trials, known)
    assert [(each.key, each.state) for each in found] == [("key0", "lost"), ("key0", "completed")]
    assert found[1] == whole
    assert set(known) == {0, 1, 2, 3, 5}, "a running trial is read again"
    assert records_of(trials, known) == found
    assert SPACE.algorithms[0].name == found[0].algorithm


def test_what_was_read_is_not_read_again():
    given = record("key0", 0.5, feasible=True)
    ended, running = trial(0, **{ORDER: order(), RECORD: given.to_dict()}), trial(1, TrialState.RUNNING)
    known = {}
    assert records_of([ended, running], known) == [given]
    ended.set_user_attr(RECORD, "damaged since")
    assert records_of([ended, running], known) == [given]
    assert list(known) == [0], "one that runs is read when it has ended"
