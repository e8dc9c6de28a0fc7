"""Tuners compared: real tuners, real trials in processes."""

import json
import shutil

import pytest

from autocompress.compare import Comparison
from autocompress.errors import ConfigError, StoreError
from autocompress.report.data import read_report_data
from autocompress.store import ExperimentDirectory
from tests.cli.support import invoke
from tests.compare.support import compared
from tests.e2e.support import trained_epochs

pytestmark = pytest.mark.slow


def test_each_search_is_an_experiment_of_its_own(comparison):
    home, found = comparison
    ended = [each for each in found.outcomes if each.error is None]
    assert [each.tuner for each in ended] == ["adaptive", "random", "optuna-random"]
    for each in ended:
        data = read_report_data(ExperimentDirectory(home / each.directory))
        assert len(data.records) == each.trials == 3
        assert sum(record.epochs for record in data.records) == each.epochs
        assert data.plan.settings.seed == 0
        assert data.plan.measured == read_report_data(ExperimentDirectory(home / "adaptive" / "0")).plan.measured
    assert sum(trained_epochs(home.parent / "epochs.log").values()) == sum(each.epochs for each in ended)
    assert [record.requested_rate for record in read_report_data(ExperimentDirectory(home / "adaptive/0")).records] == [
        0.5,
        0.6,
        0.7,
    ]


def test_a_tuner_that_is_not_installed_is_named_with_what_to_install(comparison):
    _, found = comparison
    (error,) = [each.error for each in found.outcomes if each.error is not None]
    assert error == (
        "tuner 'Anneal' needs a package that is not installed: No module named 'hyperopt' (pip install nni[Anneal])"
    )


def test_it_is_written(comparison):
    home, found = comparison
    assert Comparison.from_dict(json.loads((home / "comparison.json").read_text())) == found
    assert "anneal: tuner &#39;Anneal&#39; needs" in (home / "comparison.html").read_text()


def test_called_again_it_runs_nothing_again(comparison, tmp_path, monkeypatch):
    whole, found = comparison
    home = shutil.copytree(whole, tmp_path / "home")
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "again.log"))
    assert compared(home, "adaptive,random", seeds=1, trials=3).outcomes == found.outcomes[:2]
    assert not (tmp_path / "again.log").exists()


def test_another_comparison_needs_another_directory(comparison):
    home, _ = comparison
    with pytest.raises(StoreError, match="must be of the same comparison; its trials is another one"):
        compared(home, "adaptive", seeds=1, trials=4)


def test_a_second_comparison_in_one_directory_is_refused(tmp_path):
    with ExperimentDirectory(tmp_path / "home").locked(), pytest.raises(StoreError, match="is being run by process"):
        compared(tmp_path / "home", "adaptive", seeds=1, trials=3)


def test_bad_input_is_told_before_anything_is_measured(tmp_path):
    for options, told in (({"seeds": 0}, "seeds must be"), ({"engine": "moon"}, "unknown engine 'moon'")):
        with pytest.raises(ConfigError, match=told):
            compared(tmp_path / "home", "adaptive", **options)
    answer = invoke("compare", "tests/curve_modules.py:Cliff", "--search-space", "nowhere.json", "--tuners", "tpe")
    assert answer.exit_code == 2
    assert not (tmp_path / "home").exists()
