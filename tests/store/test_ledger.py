from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autocompress.errors import StoreError
from autocompress.records import Proposal
from autocompress.search import AdaptiveSearch, RateAxis, StepHalving
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial, Verdict
from tests.search.support import answer, trial

PROPOSAL = Proposal("l1", 0.5, 0.1, 0, 1.0, None, 0, 5, initial=True)
OPEN = PendingTrial("a", {"algorithm_name": {"_name": "l1", "config_list::Conv2d::::sparsity": 0.5}}, PROPOSAL)
STOCK = PendingTrial("b", {"algorithm_name": {"_name": "l2"}})
VERDICT = Verdict(accuracy=0.9, holdout_accuracy=None, feasible=True)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(ExperimentDirectory(tmp_path))


def state(ledger):
    return ledger.records, ledger.open, ledger.verdicts


def replayed(ledger):
    return Ledger(ExperimentDirectory(ledger.directory.path))


def assert_replays(ledger):
    assert state(replayed(ledger)) == state(ledger)


def test_a_new_ledger_is_empty(ledger):
    assert state(ledger) == ([], {}, {})


def test_a_proposal_is_open_until_its_result(ledger):
    ledger.propose(OPEN)
    assert ledger.open == {"a": OPEN}
    assert_replays(ledger)
    record = trial(0.5, key="a")
    ledger.add(record)
    assert state(ledger) == ([record], {}, {})
    assert_replays(ledger)


def test_proposing_an_open_trial_again_changes_nothing(ledger):
    ledger.propose(OPEN)
    ledger.propose(dataclasses.replace(OPEN, parameters={}))
    assert ledger.open == {"a": OPEN}
    assert len(ledger.directory.journal.read()) == 1


def test_a_builtin_tuner_proposes_without_a_proposal(ledger):
    ledger.propose(STOCK)
    assert replayed(ledger).open == {"b": STOCK}


def test_everything_is_in_the_journal_before_it_is_here(ledger):
    """A line that cannot be written leaves the ledger as it was."""
    ledger.propose(OPEN)
    before = ([], {"a": OPEN}, {})
    record = dataclasses.replace(trial(0.5, key="a"), accuracy=float("nan"))
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.add(record)
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.add_verdict("a", Verdict(float("nan"), None, False))
    with pytest.raises(ValueError, match="not JSON compliant"):
        ledger.propose(dataclasses.replace(STOCK, parameters={"x": float("inf")}))
    assert state(ledger) == before
    assert_replays(ledger)


def test_settling_takes_the_record_from_the_trial(ledger):
    ledger.propose(OPEN)
    assert ledger.settle("a") is None
    assert "a" in ledger.open
    record = trial(0.5, key="a")
    ledger.directory.trial("a").write_record(record)
    assert ledger.settle("a") == record
    assert state(ledger) == ([record], {}, {})
    assert_replays(ledger)


def test_settling_twice_notes_it_once(ledger):
    ledger.propose(OPEN)
    record = trial(0.5, key="a")
    ledger.directory.trial("a").write_record(record)
    assert [ledger.settle("a"), ledger.settle("a")] == [record, record]
    assert ledger.records == [record]
    assert [event["event"] for event in ledger.directory.journal.read()] == ["proposal", "result"]


def test_a_known_result_answers_also_without_files(ledger):
    record = trial(0.5, key="a")
    ledger.add(record)
    assert ledger.settle("a") == record


def test_a_trial_proposed_again_is_settled_again(ledger):
    """A built-in tuner may choose the same parameters twice: each time has its result."""
    record = trial(0.5, key="a")
    ledger.propose(OPEN)
    ledger.directory.trial("a").write_record(record)
    ledger.settle("a")
    ledger.propose(OPEN)
    assert ledger.settle("a") == record
    assert (ledger.records, ledger.open) == ([record, record], {})
    assert_replays(ledger)


def test_a_lost_trial(ledger):
    ledger.propose(OPEN)
    record = ledger.close("a")
    assert (record.key, record.algorithm, record.state, record.requested_rate) == ("a", "l1", "lost", 0.5)
    assert record.error == "the trial's process was killed"
    assert (record.feasible, record.accuracy, record.checkpoint) == (False, None, None)
    assert record.parameters == OPEN.parameters
    said = OPEN.proposal
    assert (record.lr_factor, record.seed, record.start_from) == (said.lr_factor, said.seed, said.start_from)
    assert state(ledger) == ([record], {}, {})
    assert_replays(ledger)


def test_a_lost_trial_is_tried_again_and_then_counts(ledger):
    ledger.propose(OPEN)
    lost = ledger.close("a")
    ledger.propose(OPEN)
    assert ledger.settle("a") is None
    record = trial(0.5, key="a")
    ledger.directory.trial("a").write_record(record)
    assert ledger.settle("a") == record
    assert ledger.records == [lost, record]
    assert_replays(ledger)


def test_a_result_that_comes_after_the_loss_was_noted(ledger):
    """The process was thought dead."""
    ledger.propose(OPEN)
    lost = ledger.close("a")
    assert ledger.settle("a") is None
    record = trial(0.5, key="a")
    ledger.directory.trial("a").write_record(record)
    assert [ledger.settle("a"), ledger.settle("a")] == [record, record]
    assert ledger.records == [lost, record]


def test_a_crashed_trial_has_failed_with_the_last_line(ledger):
    ledger.propose(STOCK)
    record = ledger.close("b", "Traceback (most recent call last):\n  ...\nValueError: no")
    assert (record.state, record.error, record.requested_rate) == ("failed", "ValueError: no", None)
    assert ledger.directory.trial("b").traceback() == "Traceback (most recent call last):\n  ...\nValueError: no"
    assert_replays(ledger)


def test_closing_what_is_not_open(ledger):
    with pytest.raises(KeyError):
        ledger.close("a")


@pytest.mark.parametrize("ended", ["completed", "failed"])
def test_what_ended_while_nobody_was_there_is_absorbed(ledger, ended):
    ledger.propose(OPEN)
    ledger.propose(STOCK)
    record = trial(0.5, key="a", state=ended)
    ledger.directory.trial("a").write_record(record)
    resumed = replayed(ledger)
    resumed.settle_ended()
    assert (resumed.records, resumed.open) == ([record], {"b": STOCK})
    assert_replays(resumed)
    resumed.settle_ended()
    assert resumed.records == [record]


def test_a_trial_that_stopped_with_the_search_is_not_absorbed(ledger):
    """It is not the rate's fault: it runs again after a resume."""
    ledger.propose(OPEN)
    record = trial(0.5, key="a", state="stopped")
    ledger.directory.trial("a").write_record(record)
    ledger.settle_ended()
    assert state(ledger) == ([], {"a": OPEN}, {})
    assert ledger.settle("a", stopped_counts=False) is None
    assert ledger.settle("a") == record, "stopped from the web page while the search goes on, it counts"
    assert_replays(ledger)


def test_verdicts(ledger):
    ledger.add_verdict("a", VERDICT)
    assert ledger.verdicts == {"a": VERDICT}
    assert_replays(ledger)
    later = Verdict(0.8, 0.7, False)
    ledger.add_verdict("a", later)
    assert ledger.verdicts == {"a": later}
    assert_replays(ledger)


def test_events_of_other_kinds_are_passed_over(ledger):
    ledger.propose(OPEN)
    ledger.directory.journal.append("note", text="resumed")
    assert_replays(ledger)


def test_a_record_of_another_version_is_an_error(ledger):
    ledger.directory.journal.append("result", record={**trial(0.5).to_dict(), "schema_version": 2})
    with pytest.raises(StoreError, match=r"^TrialRecord: schema_version must be 1; got 2$"):
        replayed(ledger)


def test_a_ledger_makes_no_directory(tmp_path):
    path = tmp_path / "nowhere"
    assert Ledger(ExperimentDirectory(path)).records == []
    assert not path.exists()


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1), st.integers(0, 2**32).map(random.Random))
def test_a_search_killed_anywhere_goes_on_as_if_it_had_not_been(tmp_path_factory, truth, dice):
    """At each event the ledger is read anew from disk, or not; a result may be on disk before it is noted."""
    search = AdaptiveSearch("l1", RateAxis(0.0, 0.95), StepHalving())
    undisturbed, records = [], []
    while (proposal := search.next(records)) is not None:
        undisturbed.append(proposal)
        records.append(answer(proposal, proposal.requested_rate <= truth))

    ledger = Ledger(ExperimentDirectory(tmp_path_factory.mktemp("experiment")))

    def perhaps_killed(ledger):
        if dice.random() < 0.5:
            return ledger
        resumed = replayed(ledger)
        assert state(resumed) == state(ledger)
        resumed.settle_ended()
        return resumed

    proposed = []
    while (proposal := search.next(ledger.records)) is not None:
        record = answer(proposal, proposal.requested_rate <= truth)
        proposed.append(proposal)
        ledger.propose(PendingTrial(record.key, record.parameters, proposal))
        ledger = perhaps_killed(ledger)
        assert search.next(ledger.records) == proposal
        ledger.directory.trial(record.key).write_record(record)
        ledger = perhaps_killed(ledger)
        assert ledger.settle(record.key) == record
        ledger = perhaps_killed(ledger)
    assert proposed == undisturbed
    assert ledger.records == records


def test_a_ledger_takes_over_what_others_have_written(tmp_path):
    here, there = (Ledger(ExperimentDirectory(tmp_path)) for _ in range(2))
    here.propose(OPEN)
    there.refresh()
    assert there.open == {"a": OPEN}
    record = trial(0.5, key="a")
    there.add(record)
    there.refresh()
    here.refresh()
    assert here.records == there.records == [record], "each event once, whoever wrote it"
    assert here.open == {}


@pytest.mark.parametrize(
    ("event", "content", "rule"),
    [
        ("proposal", {"key": "../x", "parameters": STOCK.parameters}, "PendingTrial: key must be of letters"),
        ("proposal", {"parameters": STOCK.parameters}, "PendingTrial: .*missing .*'key'"),
        ("proposal", {"key": "a", "parameters": {}}, "a trial's parameters must have the algorithm's name"),
        ("proposal", {"key": "a", "parameters": []}, "PendingTrial: parameters must be an object"),
        (
            "proposal",
            {"key": "a", "parameters": {**STOCK.parameters, "search": {"start_from": "../x"}}},
            "'search' of a trial's parameters: start_from must be of letters",
        ),
        (
            "proposal",
            {"key": "a", "parameters": {**STOCK.parameters, "search": {"requested_rate": "half"}}},
            "'search' of a trial's parameters: requested_rate must be ",
        ),
        ("proposal", {"key": "a", "parameters": STOCK.parameters, "proposal": 3}, "Proposal must be an object; got 3"),
        ("result", {"record": None}, "TrialRecord must be an object; got None"),
        ("result", {}, "TrialRecord: schema_version must be 1; got None"),
        (
            "verdict",
            {"key": "..", "accuracy": 1.0, "holdout_accuracy": None, "feasible": True},
            "key must be of letters",
        ),
        (
            "verdict",
            {"key": "a", "accuracy": "1", "holdout_accuracy": None, "feasible": True},
            "accuracy must be a finite",
        ),
        ("verdict", {"key": "a"}, "missing"),
    ],
)
def test_events_of_another_type(ledger, event, content, rule):
    ledger.directory.journal.append(event, **content)
    with pytest.raises(StoreError, match=rule):
        replayed(ledger)
