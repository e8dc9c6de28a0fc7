import pytest

from autocompress.errors import InfeasibleBudgetError, StoreError
from autocompress.records import Baseline, Measurement, Proposal, TrialRecord
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger, Verdict


def record(key, rate, feasible, **fields):
    budget = 0.01 if feasible else -0.2
    plain = {
        "accuracy": 0.891 + budget,
        "accuracy_budget": budget,
        "score": rate if feasible else -0.2,
        "feasible": feasible,
    }
    return TrialRecord(
        key=key,
        algorithm="l2",
        state="completed",
        requested_rate=rate,
        checkpoint=f"trials/{key}",
        **{**plain, **fields},
    )


@pytest.fixture
def result(tmp_path):
    directory = ExperimentDirectory(tmp_path)
    baseline = Baseline(0.9, 0.88, True, Measurement(10, 10, 10, 100), "f", 0.1)
    directory.write_settings({"threshold": 0.891, "baseline": baseline.to_dict(), "module": {}})
    ledger = Ledger(directory)
    for entry in (record("a", 0.5, True), record("b", 0.7, False), record("c", 0.6, True)):
        ledger.add(entry)
    return CompressionResult(directory)


def test_the_best_is_feasible_and_has_the_highest_score(result):
    assert result.best.key == "c"
    assert result.verdict is None


def test_a_model_that_failed_when_loaded_afresh_gives_way(result):
    Ledger(result.directory).add_verdict("c", Verdict(0.5, None, False))
    assert result.best.key == "a"


def test_nothing_feasible_tells_how_near_it_came(result):
    ledger = Ledger(result.directory)
    for key in "ac":
        ledger.add_verdict(key, Verdict(0.5, None, False))
    with pytest.raises(
        InfeasibleBudgetError, match=r"the threshold is 0\.891, .*; tried l2 at 0\.5, l2 at 0\.7"
    ) as caught:
        _ = result.best
    assert len(caught.value.trials) == 3


def test_the_summary(result):
    Ledger(result.directory).add_verdict("c", Verdict(0.902, 0.87, True))
    lines = result.summary().splitlines()
    assert lines[0].startswith("l2 at rate 0.6")
    assert "verified    0.902 when loaded afresh" in lines
    assert "hold-out    0.87 (uncompressed 0.88)" in lines


def test_records_come_back_and_others_are_refused():
    proposal = Proposal("l2", 0.5, 0.1, 0, 1.0, None, 0, 5, initial=True)
    assert Proposal.from_dict(proposal.to_dict()) == proposal
    assert TrialRecord.from_dict(record("a", 0.5, True).to_dict()) == record("a", 0.5, True)
    with pytest.raises(StoreError, match="schema_version must be 1; got 2"):
        Proposal.from_dict({**proposal.to_dict(), "schema_version": 2})
    with pytest.raises(StoreError, match="spam"):
        Proposal.from_dict({**proposal.to_dict(), "spam": 1})
    with pytest.raises(StoreError, match="seed"):
        Proposal.from_dict({name: value for name, value in proposal.to_dict().items() if name != "seed"})
