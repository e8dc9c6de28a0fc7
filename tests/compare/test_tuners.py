"""Naming tuners."""

import pytest

from autocompress.compare.tuners import DEFAULT_TUNERS, TunerName, tuner_named, tuners_named
from autocompress.errors import ConfigError


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
