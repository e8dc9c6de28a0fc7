"""The command line that runs the same search again."""

import dataclasses

import pytest

from autocompress.plan import BuiltinTunerPlan, LocalPlan, OptunaPlan
from autocompress.records import Preflight
from autocompress.report.data import best_scored, read_report_data, recipe
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests.written import plan, record


@pytest.mark.parametrize(("percent", "confirmed"), [(1.0, False), (0.01, True), (60.0, True)])
def test_a_budget_that_is_hardly_meant_is_confirmed(tmp_path, percent, confirmed):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    settings = AccuracyAwareSettings(maximal_relative_accuracy_degradation=percent)
    store.write_settings(plan(settings=settings).to_dict())
    assert ("--yes" in recipe(read_report_data(store)).command.split()) == confirmed


@pytest.mark.parametrize("engine", [None, OptunaPlan("study"), LocalPlan(), BuiltinTunerPlan()])
def test_the_same_engine_runs_it_again(tmp_path, engine):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    store.write_settings(plan(**({} if engine is None else {"engine": engine})).to_dict())
    words = recipe(read_report_data(store)).command.split()
    assert words.count("--engine") == (engine is not None), "NNI is what is taken without it"
    assert engine is None or words[words.index("--engine") + 1] == engine.name


def with_samples(tmp_path, accuracy, samples):
    store = ExperimentDirectory(tmp_path / "experiment")
    store.create()
    found = Preflight((accuracy,), None, None, 0.1, samples=samples)
    baseline = dataclasses.replace(plan().measured, accuracy=accuracy, preflight=found)
    store.write_settings(plan(baseline=baseline).to_dict())
    return read_report_data(store)


@pytest.mark.parametrize(
    ("accuracy", "samples", "of", "error"),
    [
        (0.9, 400, 0.9, 0.015),
        (90.0, 400, 90.0, 1.5),  # in percent
        (0.9, 400, 0.5, 0.025),
        (0.9, 400, None, None),
        (0.9, None, 0.9, None),
        (0.9012, 400, 0.9, None),  # no share of the samples: a mean over classes, a similarity
        (-0.5, 400, -0.5, None),
    ],
)
def test_the_standard_error_of_a_share(tmp_path, accuracy, samples, of, error):
    found = with_samples(tmp_path, accuracy, samples).standard_error(of)
    assert found == (None if error is None else pytest.approx(error))


def test_an_error_that_is_recorded_comes_before_that_of_the_accuracy_alone(tmp_path):
    data = with_samples(tmp_path, 0.9, 400)
    known = dataclasses.replace(record("a", 0.5, feasible=True), accuracy=0.9)
    assert data.error_of(None) == data.error_of(known) == pytest.approx(0.015)
    assert data.error_of(dataclasses.replace(known, accuracy_error=0.004)) == 0.004
    baseline = dataclasses.replace(data.plan.measured, accuracy_error=0.007)
    assert dataclasses.replace(data, plan=plan(baseline=baseline)).error_of(None) == 0.007


def test_of_many_trials_the_best_are_chosen():
    records = [dataclasses.replace(record(str(number), 0.5, feasible=True), score=number % 10) for number in range(100)]
    records[7] = dataclasses.replace(records[7], score=None)
    assert best_scored(records, 100) == records
    assert {each.score for each in best_scored(records, 9)} == {9}
