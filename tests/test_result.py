"""The result of an experiment whose directory was written by hand: nothing is trained."""

from __future__ import annotations

import dataclasses
import re

import pytest

from autocompress.errors import InfeasibleBudgetError, StoreError
from autocompress.records import Baseline, Measurement
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger, Verdict
from tests.search.support import trial
from tests.written import plan

BASELINE = Baseline(0.9, 0.88, True, Measurement(72_608, 72_608, 2_000_000, 295_000), "abc123", 1.0)


@pytest.fixture
def write(tmp_path):
    """Write an experiment: its trials, and what their checkpoints evaluated to when loaded afresh."""

    def write(*records, baseline=BASELINE, **verdicts):
        directory = ExperimentDirectory(tmp_path / "experiment")
        directory.create()
        directory.write_settings(plan(baseline=baseline).to_dict())
        ledger = Ledger(directory)
        for record in records:
            ledger.add(record)
        for key, verdict in verdicts.items():
            ledger.add_verdict(key, verdict)
        return CompressionResult(directory)

    return write


HOLDS, BREAKS = Verdict(0.9, None, True), Verdict(0.85, None, False)


def sized(rate, feasible=True, **fields):
    return trial(
        rate,
        feasible,
        **{
            "accuracy": 0.8925,
            "parameters_removed": 0.8512,
            "size_removed": 0.8504,
            "macs_removed": 0.7,
            "bytes": 44_123,
            "epochs": 3,
            **fields,
        },
    )


def test_what_the_directory_holds(write):
    records = [trial(0.5), trial(0.6, False)]
    result = write(*records)
    assert (result.records, result.baseline, result.threshold) == (records, BASELINE, 0.891)


def test_the_best_is_the_feasible_trial_with_the_highest_score(write):
    result = write(trial(0.5), trial(0.6, score=0.9), trial(0.55, score=0.95), trial(0.7, False, score=0.99))
    assert result.best.requested_rate == 0.55
    assert result.checkpoint == result.directory.path / "trials" / result.best.key / "checkpoint"
    assert result.verdict is None


def test_a_best_that_does_not_hold_gives_way_to_the_next(write):
    result = write(trial(0.5, key="a"), trial(0.6, key="b"), trial(0.7, key="c"), b=HOLDS, c=BREAKS)
    assert result.best.key == "b"
    assert result.verdict == HOLDS


def test_the_result_follows_the_journal(write):
    """It is read from disk each time: another process may write."""
    result = write(trial(0.5, key="a"))
    assert result.best.key == "a"
    Ledger(result.directory).add(trial(0.6, key="b"))
    assert result.best.key == "b"
    Ledger(result.directory).add_verdict("b", BREAKS)
    assert result.best.key == "a"


def test_nothing_feasible(write):
    records = [
        trial(0.5, False, accuracy=0.80, accuracy_margin=-0.091),
        trial(0.4, False, accuracy=0.87, accuracy_margin=-0.021),
        trial(0.3, state="failed"),
    ]
    result = write(*records)
    message = (
        "no compressed model stayed within the accuracy budget: the threshold is 0.891, the best accuracy was 0.87; "
        "tried l1 at 0.5, l1 at 0.4, l1 at 0.3"
    )
    for ask in (lambda: result.best, lambda: result.checkpoint, lambda: result.verdict, result.summary, result.verify):
        with pytest.raises(InfeasibleBudgetError, match=f"^{re.escape(message)}$") as caught:
            ask()
        error = caught.value
        assert (error.best_accuracy, error.threshold, error.trials) == (0.87, 0.891, tuple(records))


def test_nothing_tried(write):
    with pytest.raises(InfeasibleBudgetError, match=r"no trial was evaluated; tried nothing$") as caught:
        _ = write().best
    assert caught.value.best_accuracy is None


def test_nothing_holds(write):
    result = write(trial(0.5, key="a"), trial(0.4, key="b"), a=BREAKS, b=BREAKS)
    with pytest.raises(InfeasibleBudgetError):
        result.verify()


def test_a_verified_result_is_not_verified_again(write):
    """No process is started: there is no module to start one with."""
    result = write(trial(0.5, key="a"), a=HOLDS)
    assert result.verify().key == "a"


def test_summary(write):
    result = write(sized(0.5, epochs=2), sized(0.85, key="best"), sized(0.9, False), best=Verdict(0.8925, None, True))
    assert result.summary().splitlines() == [
        "l1 at rate 0.85: 85.1% of the parameters and 70.0% of the multiply-accumulates removed",
        "accuracy    0.8925 (uncompressed 0.9, threshold 0.891)",
        "verified    0.8925 when loaded afresh",
        "size        44,123 bytes (uncompressed 295,000, 85.0% smaller)",
        "search      3 trials, 8 epochs",
        f"checkpoint  {result.checkpoint}",
    ]


def test_summary_with_hold_out_and_failures(write):
    result = write(
        sized(0.85, key="best"), trial(0.9, state="failed"), trial(0.9, state="lost"), best=Verdict(0.8925, 0.875, True)
    )
    assert result.summary().splitlines()[2:] == [
        "verified    0.8925 when loaded afresh",
        "hold-out    0.875 (uncompressed 0.88)",
        "size        44,123 bytes (uncompressed 295,000, 85.0% smaller)",
        "search      3 trials, 3 epochs",
        f"checkpoint  {result.checkpoint}",
        "failed      2 of them, the last with the trial's process was killed",
    ]


def test_summary_before_the_end_of_the_search_and_without_a_rate(write):
    lines = write(sized(None, algorithm="qat")).summary().splitlines()
    assert lines[0] == "qat: 85.1% of the parameters and 70.0% of the multiply-accumulates removed"
    assert [line.split()[0] for line in lines[1:]] == ["accuracy", "size", "search", "checkpoint"]


def test_no_experiment(tmp_path):
    result = CompressionResult(ExperimentDirectory(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match=r"nowhere holds no experiment: experiment\.json is missing$"):
        _ = result.baseline


DIFFERS = "the evaluator is not deterministic or leaves the model in training mode"


def test_where_verification_disproves_all_that_is_said(write):
    """An accuracy beyond the threshold and no result would be a riddle."""
    records = [trial(0.5, key="a", accuracy=0.9, accuracy_margin=0.009), trial(0.6, False, accuracy=0.88)]
    result = write(*records, a=BREAKS)
    with pytest.raises(InfeasibleBudgetError) as caught:
        result.summary()
    assert str(caught.value) == (
        "no compressed model stayed within the accuracy budget: the threshold is 0.891, the best accuracy was 0.88; "
        f"l1 at 0.5 evaluates differently when loaded afresh: 0.85 against 0.9; {DIFFERS}; tried l1 at 0.5, l1 at 0.6"
    )
    assert (caught.value.best_accuracy, caught.value.disproved) == (0.88, ((records[0], 0.85),))
    assert result.disagreements == [
        f"l1 at rate 0.5 evaluates differently when loaded afresh: 0.85 against 0.9; {DIFFERS}"
    ]


def test_the_summary_warns_of_a_best_model_that_evaluates_differently(write):
    result = write(sized(0.85, key="best"), best=Verdict(0.9, None, True))
    assert result.summary().splitlines()[-1] == (
        f"warning     l1 at rate 0.85 evaluates differently when loaded afresh: 0.9 against 0.8925; {DIFFERS}"
    )
    assert "verified    0.9 when loaded afresh" in result.summary()


def test_of_many_that_evaluate_differently_the_first_are_told(write):
    keys = "abcde"
    result = write(*(trial(index / 10, key=key) for index, key in enumerate(keys)), **dict.fromkeys(keys, BREAKS))
    assert [text.split(" evaluates")[0] for text in result.disagreements] == [
        "l1 at rate 0", "l1 at rate 0.1", "l1 at rate 0.2", "and so do 2 more"
    ]  # fmt: skip


def test_printed_it_is_a_summary(write):
    result = write(sized(0.5), sized(0.7, False))
    assert str(result).startswith(f"{result.summary()}\nload it     import autocompress; model = ")


def test_printed_it_says_why_there_is_none(write, tmp_path):
    result = write(sized(0.5, False))
    assert str(result).splitlines()[0].startswith("no compressed model stayed within the accuracy budget: ")
    assert str(result).splitlines()[1] == f"search      {result.directory.path}"
    assert "holds no experiment" in str(CompressionResult(tmp_path / "none"))


def test_an_error_of_megabytes_is_one_line_of_the_summary(write):
    failed = dataclasses.replace(sized(0.6, False), error="ValueError: " + "x\n" * 3_000_000)
    assert len(write(sized(0.5), failed).summary()) < 4000
