"""Naming tuners."""

import re

import pytest

from autocompress.compare.one_search import DEFAULT_TUNERS, TunerName, tuner_named, tuners_named
from autocompress.errors import ConfigError
from autocompress.report.data import read_report_data
from autocompress.store import ExperimentDirectory
from tests.compare.support import compared


@pytest.mark.parametrize(
    ("text", "framework", "name"),
    [
        ("adaptive", "adaptive", "AdaptiveCompression"),
        ("AdaptiveCompression", "adaptive", "AdaptiveCompression"),
        ("tpe", "nni", "TPE"),
        ("Random", "nni", "Random"),
        ("grid", "nni", "GridSearch"),
        ("gridsearch", "nni", "GridSearch"),
        ("optuna-tpe", "optuna", "TPE"),
        ("optuna-GP", "optuna", "GP"),
        ("optuna-cma-es", "optuna", "CmaEs"),
    ],
)
def test_names(text, framework, name):
    found = tuner_named(text)
    assert (found.framework, found.name) == (framework, name)


def test_the_defaults_are_known_and_each_is_compared_once():
    assert [each.label for each in tuners_named(DEFAULT_TUNERS)] == list(DEFAULT_TUNERS)
    assert [each.label for each in tuners_named("tpe, TPE ,random")] == ["tpe", "random"]


def test_what_is_to_be_installed():
    assert tuner_named("smac").install == "nni[SMAC]"
    assert TunerName("tpe", "nni", "TPE").install is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tpo", r"unknown tuner 'tpo'; did you mean 'tpe'"),
        ("optuna-tpo", r"unknown sampler of Optuna 'tpo' .known: .*TPE"),
        (" , ", r"tuners must name at least one; got ' , '"),
    ],
)
def test_names_that_are_not_known(text, told):
    with pytest.raises(ConfigError, match=told):
        tuners_named(text)


@pytest.mark.slow
def test_real_nni_experiments_find_the_same(comparison, tmp_path, monkeypatch):
    monkeypatch.setenv("EPOCHS_LOG", str(tmp_path / "epochs.log"))
    home, found = comparison
    real = compared(tmp_path / "home", "random", seeds=1, trials=3, engine="nni", jobs=1)
    driven = next(each for each in found.outcomes if each.tuner == "random")
    assert (real.outcomes[0].error, real.outcomes[0].path) == (None, driven.path)
    records = [read_report_data(ExperimentDirectory(place / "random/0")).records for place in (home, tmp_path / "home")]
    assert [record.parameters for record in records[0]] == [record.parameters for record in records[1]]
    log = tmp_path / "home" / "random" / "0.log"
    assert re.search(r"http://127\.0\.0\.1:\d+/[0-9a-f]{32}/", log.read_text()), "NNI's address is in it"
    assert log.stat().st_mode & 0o777 == 0o600, "which others must not read"
