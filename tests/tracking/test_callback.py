"""Callbacks are told of everything once, in order, and disturb nothing."""

import builtins
import threading
import types
import warnings

import pytest

from autocompress.errors import InfeasibleBudgetError
from autocompress.plan import NniPlan
from autocompress.search.adaptive import search_length
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial
from autocompress.tracking import Callback
from autocompress.tracking.callback import Follower, notify_callbacks, without_progress
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


def test_a_search_prints_a_line_for_each_trial_and_where_it_is(store, capsys):
    with notify_callbacks(store, []) as end:
        begin(store, "a")
        finish(store, "a")
        end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"the search is in {store.path}"
    assert lines[1].startswith("trial 1: l2 at rate 0.5: accuracy 0.895 (+0.004 to the threshold), 50.0% of the param")
    removed = "50.0% of the parameters removed, 50.0% smaller"
    assert lines[2:] == [f"best: l2 at rate 0.5, {removed}; {store.trial('a').checkpoint}"]


def test_after_a_resume_the_numbers_go_on(store, capsys):
    begin(store, "a")
    finish(store, "a")
    with notify_callbacks(store, []):
        begin(store, "b")
        finish(store, "b")
    assert [line[:8] for line in capsys.readouterr().out.splitlines()] == ["the sear", "trial 2:"]


def test_the_command_line_has_a_display_of_its_own(store, capsys):
    with without_progress(), notify_callbacks(store, []) as end:
        begin(store, "a")
        finish(store, "a")
        end()
    assert capsys.readouterr().out == ""


def test_only_what_is_new_is_read(store, monkeypatch):
    starts, read = [], type(store.journal)._bytes
    noted = lambda self, start: starts.append(start) or read(self, start)  # noqa: E731
    follower = Follower(store, [Told()])
    begin(store, "a")
    follower.poll()
    size = store.journal.size()
    begin(store, "b")
    monkeypatch.setattr(type(store.journal), "_bytes", noted)
    follower.poll()
    assert max(starts) == size
    assert starts.count(0) == 2, "the learning curves of the two trials"


def test_in_a_notebook_there_is_a_bar(store, capsys, monkeypatch):
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})  # as IPython says that it is one
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tqdm's, that a notebook's own bar needs ipywidgets
        with notify_callbacks(store, []):
            for key in ("a", "b"):
                begin(store, key)
                finish(store, key)
    told = capsys.readouterr()
    assert "trial 2: l2 at rate 0.5" in told.out
    assert f"2/{plan().most_trials} [" in told.err


def test_the_bar_has_the_most_trials_of_the_search():
    assert plan().most_trials == search_length(plan().searches, [1], 1).trials
    assert plan(tuner="TPE", engine=NniPlan("x", {"maxTrialNumber": 7})).most_trials == 7
    assert plan(engine=NniPlan("x", {"maxTrialNumber": 3})).most_trials == 3
    assert plan(tuner="TPE").most_trials is None
