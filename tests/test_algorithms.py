from __future__ import annotations

import importlib
import re

import pytest

from autocompress.algorithms import ALGORITHMS, algorithm, require_available
from autocompress.errors import ConfigError

AVAILABLE = [name for name, known in ALGORITHMS.items() if known.compressor is not None]


def test_the_names_are_those_of_nni():
    pruners = {name for name, known in ALGORITHMS.items() if known.kind == "pruner"}
    assert pruners == {"level", "l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation"}
    assert set(ALGORITHMS) - pruners == {"naive", "qat", "dorefa", "bnn"}
    assert {name: known.name for name, known in ALGORITHMS.items()} == {name: name for name in ALGORITHMS}


def test_those_of_this_version():
    assert set(AVAILABLE) >= {"level", "l1", "l2", "fpgm"}
    require_available(AVAILABLE)
    require_available([])


@pytest.mark.parametrize("name", AVAILABLE)
def test_every_compressor_is_there(name):
    home, _, class_name = algorithm(name).compressor.partition(":")
    assert isinstance(getattr(importlib.import_module(home), class_name), type)


def test_an_unknown_algorithm():
    known = ", ".join(sorted(ALGORITHMS))
    message = f"unknown algorithm 'levle'; did you mean 'level'? (known: {known})"
    for refuse in (algorithm, lambda name: require_available(["l1", name])):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            refuse("levle")


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - set(AVAILABLE)))
def test_an_algorithm_of_nni_that_this_version_does_not_have(name):
    message = f"algorithm {name!r} is not available in this version (available: {', '.join(sorted(AVAILABLE))})"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        require_available(["l1", name])
