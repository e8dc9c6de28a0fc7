"""The command line that runs the same search again."""

import pytest

from autocompress.plan import BuiltinTunerPlan, LocalPlan, OptunaPlan
from autocompress.report.data import read_report_data, recipe
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
from tests.written import plan


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
