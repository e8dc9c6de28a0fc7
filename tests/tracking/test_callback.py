"""Callbacks are told of everything once, in order, and disturb nothing."""

import threading

import pytest

from autocompress.errors import InfeasibleBudgetError
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial
from autocompress.tracking import Callback
from autocompress.tracking.callback import Follower, notify_callbacks
from tests.written import plan, record


class Told(Callback):
    def __init__(self):
        self.heard = []

    def on_epoch_end(self, trial, epoch):
        self.heard.append((trial.key, epoch["epoch"]))

    def on_trial_end(self, record):
        self.heard.append((record.key, record.state))

    def on_search_end(self, result):
        self.heard.append(("search", len(result.records)))

    def close(self):
        self.heard.append("closed")


class Breaks(Callback):
    def on_trial_end(self, record):
        raise RuntimeError("no")


@pytest.fixture
def store(tmp_path):
    directory = ExperimentDirectory(tmp_path / "experiment")
    directory.create()
    directory.write_settings(plan().to_dict())
    return directory


def begin(store, key):
    Ledger(store).propose(PendingTrial(key, {"algorithm_name": {"_name": "l2"}, "search": {}}))


def train(store, key, *epochs):
    for epoch in epochs:
        store.trial(key).append_epoch({"epoch": epoch, "accuracy": 0.9})


def finish(store, key):
    Ledger(store).add(record(key, 0.5, feasible=True))


def test_everything_is_told_once_and_in_order(store):
    told = Told()
    follower = Follower(store, [told])
    follower.poll()
    begin(store, "a")
    train(store, "a", 1)
    follower.poll()
    train(store, "a", 2)
    finish(store, "a")
    follower.poll()
    follower.poll()
    follower.end()
    follower.close()
    assert told.heard == [("a", 1), ("a", 2), ("a", "completed"), ("search", 1), "closed"]


def test_what_was_there_before_is_not_told_again(store):
    begin(store, "a")
    train(store, "a", 1)
    finish(store, "a")
    told = Told()
    follower = Follower(store, [told])
    begin(store, "b")
    train(store, "b", 1)
    follower.poll()
    assert told.heard == [("b", 1)]


def test_a_trial_that_runs_again_begins_its_curve_anew(store):
    told = Told()
    follower = Follower(store, [told])
    begin(store, "a")
    train(store, "a", 1, 2)
    follower.poll()
    store.trial("a").clear_curve()
    train(store, "a", 1)
    follower.poll()
    assert told.heard == [("a", 1), ("a", 2), ("a", 1)]


def test_one_that_raises_is_reported_once_and_the_others_go_on(store, caplog):
    told = Told()
    follower = Follower(store, [Breaks(), told])
    for key in "ab":
        begin(store, key)
        finish(store, key)
        follower.poll()
    assert told.heard == [("a", "completed"), ("b", "completed")]
    assert [message for message in caplog.messages if "Breaks failed and is not called again" in message] != []
    assert len(caplog.messages) == 1


def test_a_search_is_followed_while_it_runs(store):
    told, heard = Told(), threading.Event()
    told.on_trial_end = lambda record: heard.set()
    with notify_callbacks(store, [told]):
        begin(store, "a")
        finish(store, "a")
        assert heard.wait(30), "it is told before the search has ended"
    assert told.heard == ["closed"], "a search that was stopped has not ended"


def test_nothing_within_the_budget_is_an_end_too(store):
    told = Told()
    with pytest.raises(InfeasibleBudgetError), notify_callbacks(store, [told]):
        raise InfeasibleBudgetError(0.5, 0.8, [])
    assert told.heard == [("search", 0), "closed"]
