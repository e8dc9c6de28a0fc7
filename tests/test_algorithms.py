from __future__ import annotations

import importlib
import re

import pytest

from autocompress.algorithms import ALGORITHMS, algorithm
from autocompress.errors import ConfigError

PRUNERS = {"level", "l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation"}
QUANTIZERS = {"naive", "qat", "dorefa", "bnn"}


def test_the_names_are_those_of_nni_and_nncf():
    pruners = {name for name, known in ALGORITHMS.items() if known.kind == "pruner"}
    assert pruners == PRUNERS | {"magnitude_sparsity", "filter_pruning"}
    assert set(ALGORITHMS) - pruners == QUANTIZERS
    assert {name: known.name for name, known in ALGORITHMS.items()} == {name: name for name in ALGORITHMS}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_compressor_is_there(name):
    home, _, class_name = algorithm(name).compressor.partition(":")
    compressor = getattr(importlib.import_module(home), class_name)()
    assert callable(compressor.compress)
    assert callable(compressor.check)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_default_is_allowed(name):
    for argument in algorithm(name).arguments:
        assert argument.check(argument.default) == argument.default


@pytest.mark.parametrize("name", ["levle", "l1+levle"])
def test_an_unknown_algorithm(name):
    message = f"unknown algorithm 'levle'; did you mean 'level'? (known: {', '.join(sorted(ALGORITHMS))})"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        algorithm(name)


@pytest.mark.parametrize("pruner", sorted(PRUNERS))
@pytest.mark.parametrize("quantizer", sorted(QUANTIZERS))
def test_a_mix_has_the_arguments_and_the_needs_of_its_parts(pruner, quantizer):
    mix, parts = algorithm(f"{pruner}+{quantizer}"), (algorithm(pruner), algorithm(quantizer))
    assert (mix.name, mix.kind, mix.parts) == (f"{pruner}+{quantizer}", "mix", parts)
    names = [argument.name for argument in mix.arguments]
    assert sorted(names) == sorted({argument.name for part in parts for argument in part.arguments})
    assert set(mix.needs) == {*parts[0].needs, *parts[1].needs}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("l2+level", "must have one algorithm with an adaptive compression rate; 'l2+level' has 'l2' and 'level'"),
        (
            "filter_pruning+magnitude_sparsity",
            "has 'filter_pruning' and 'magnitude_sparsity': one accuracy cannot tell",
        ),
        ("l2+qat+level", "has 'l2' and 'level'"),
        ("qat+l2", "must be one pruner and then one quantizer, such as 'l2+qat'; got 'qat+l2'"),
        ("qat+bnn", "must be one pruner and then one quantizer"),
        ("l2+qat+bnn", "must be one pruner and then one quantizer"),
        ("l2+", "unknown algorithm ''"),
    ],
)
def test_a_mix_that_makes_no_sense(name, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        algorithm(name)
