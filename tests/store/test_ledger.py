import pytest

from autocompress.records import Proposal, TrialRecord
from autocompress.store import ExperimentDirectory, Ledger, OpenTrial, Verdict

PROPOSAL = Proposal("l2", 0.5, 0.1, 0, 1.0, None, 0, 5, initial=True)
PARAMETERS = {"algorithm_name": {"_name": "l2"}, "search": {"compression_rate": 0.5}}


@pytest.fixture
def ledger(tmp_path):
    return Ledger(ExperimentDirectory(tmp_path))


def write(ledger, key, **fields):
    record = TrialRecord(**{"key": key, "algorithm": "l2", "state": "completed", "requested_rate": 0.5, **fields})
    ledger.directory.trial(key).write_record(record)
    return record


def same(ledger):
    """A ledger that knows only what is on disk."""
    again = Ledger(ledger.directory)
    assert (again.records, again.open, again.verdicts) == (ledger.records, ledger.open, ledger.verdicts)
    return again


def test_a_proposal_is_open_until_its_result(ledger):
    ledger.propose(OpenTrial("a", PARAMETERS, PROPOSAL))
    assert list(same(ledger).open) == ["a"]
    assert ledger.settle("a") is None
    record = write(ledger, "a")
    assert ledger.settle("a") == record
    assert ledger.open == {}
    assert same(ledger).records == [record]


def test_settling_twice_notes_it_once(ledger):
    ledger.propose(OpenTrial("a", PARAMETERS, PROPOSAL))
    record = write(ledger, "a")
    assert ledger.settle("a") == ledger.settle("a") == record
    assert same(ledger).records == [record]


def test_proposing_twice_notes_it_once(ledger):
    for _ in range(2):
        ledger.propose(OpenTrial("a", PARAMETERS, PROPOSAL))
    assert len(ledger.directory.journal.read()) == 1


def test_a_killed_trial_is_lost_and_can_be_proposed_again(ledger):
    ledger.propose(OpenTrial("a", PARAMETERS, PROPOSAL))
    lost = ledger.close("a")
    assert (lost.state, lost.requested_rate) == ("lost", 0.5)
    ledger.propose(OpenTrial("a", PARAMETERS, PROPOSAL))
    record = write(ledger, "a")
    assert ledger.settle("a") == record
    assert same(ledger).records == [lost, record]


def test_a_crash_keeps_what_was_printed(ledger):
    ledger.propose(OpenTrial("a", PARAMETERS))
    record = ledger.close("a", "Traceback\nValueError: no")
    assert (record.state, record.error) == ("failed", "ValueError: no")
    assert ledger.directory.trial("a").traceback() == "Traceback\nValueError: no"


def test_what_ended_while_nobody_was_there_is_absorbed(ledger):
    for key in "abc":
        ledger.propose(OpenTrial(key, PARAMETERS, PROPOSAL))
    ended = write(ledger, "a")
    write(ledger, "b", state="stopped")
    again = same(ledger)
    again.absorb()
    assert again.records == [ended]
    assert list(again.open) == ["b", "c"], "an interrupted trial has no result"


def test_verdicts(ledger):
    ledger.add_verdict("a", Verdict(0.9, None, True))
    ledger.add_verdict("b", Verdict(0.5, 0.4, False))
    assert same(ledger).verdicts["b"] == Verdict(0.5, 0.4, False)
