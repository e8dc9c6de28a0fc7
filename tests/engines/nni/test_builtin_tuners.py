"""NNI's own tuners: known by name, created to maximise."""

import pytest

from autocompress.engines.nni.builtin_tuners import (
    builtin_assessor_names,
    builtin_tuner_names,
    create_builtin_tuner,
    require_assessor,
    require_tuner,
)
from autocompress.errors import ConfigError


def test_names():
    assert {"TPE", "Random", "GridSearch", "Evolution", "Anneal"} <= set(builtin_tuner_names())
    assert not {"Hyperband", "BOHB"} & set(builtin_tuner_names()), "advisors are none"
    assert set(builtin_assessor_names()) == {"Curvefitting", "Medianstop"}


def test_names_are_found_in_any_case():
    assert require_tuner("tpe") == "TPE"
    assert require_tuner("adaptivecompression") == "AdaptiveCompression"
    assert require_assessor("MEDIANSTOP") == "Medianstop"
    with pytest.raises(ConfigError, match="unknown tuner 'TPEE'; did you mean 'TPE'"):
        require_tuner("TPEE")
    with pytest.raises(ConfigError, match="unknown assessor 'Medianstopp'; did you mean 'Medianstop'"):
        require_assessor("Medianstopp")


def proposed(name, **arguments):
    tuner = create_builtin_tuner(name, arguments, seed=5)
    tuner.update_search_space({"rate": {"_type": "uniform", "_value": [0, 1]}})
    return tuner.generate_parameters(0)["rate"]


@pytest.mark.parametrize("name", ["TPE", "Random"])
def test_they_are_seeded(name):
    assert proposed(name) == proposed(name)
    assert proposed(name) != proposed(name, seed=6), "unless it is given"


def test_they_must_maximise():
    with pytest.raises(
        ConfigError, match="optimize_mode must be 'maximize', since trials report a score; got 'minimize'"
    ):
        create_builtin_tuner("TPE", {"optimize_mode": "minimize"}, seed=0)


def test_arguments_that_a_tuner_does_not_take_are_refused():
    with pytest.raises(ConfigError, match=r"tuner 'Random' could not be created with class_args .*nonsense"):
        create_builtin_tuner("Random", {"nonsense": 1}, seed=0)
