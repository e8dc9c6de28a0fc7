"""Algorithms by name, ours and others', and their arguments."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from autocompress import registry
from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.pruning.pruner import FilterPruner
from autocompress.errors import ConfigError
from autocompress.layer_selector import LayerRule
from autocompress.registry import Algorithm, Argument, algorithm, algorithms, register_algorithm
from autocompress.search_space import AutoCompressionSearchSpaceGenerator, SearchSpace, default_space

PRUNERS = {"level", "l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation"}
QUANTIZERS = {"naive", "qat", "dorefa", "bnn"}
OF_TORCHAO = {"ptq", "int8_dynamic", "int8_weight_only", "int4_weight_only", "semi_structured"}


def test_the_names_are_those_of_nni_and_nncf():
    pruners = {name for name, known in algorithms().items() if known.kind == "pruner"}
    assert pruners == PRUNERS | {"magnitude_sparsity", "filter_pruning"}
    assert set(algorithms()) - pruners == QUANTIZERS | OF_TORCHAO
    assert {name: known.name for name, known in algorithms().items()} == {name: name for name in algorithms()}


@pytest.mark.parametrize("name", algorithms())
def test_every_compressor_is_there(name):
    compressor = algorithm(name).compressor()
    assert callable(compressor.compress)
    assert callable(compressor.check)


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_says_what_it_does_and_whose_it_is(name):
    assert algorithm(name).__doc__.count("Source") == 1, f"{name} must name its source once"
    assert type(algorithm(name)).__module__ == f"autocompress.algorithms.{name}"


@pytest.fixture
def forgets(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_known", algorithms())


class Largest(FilterPruner):
    """Removes the filters with the largest weights."""

    name = "largest"
    arguments = (*FilterPruner.arguments, Argument("power", 1, minimum=1))

    def score(self, layer):
        return -layer.weight.detach().abs().flatten(1).sum(1)


@pytest.mark.usefixtures("forgets")
def test_an_own_algorithm_is_known_everywhere():
    largest = register_algorithm(Largest())
    assert algorithm("largest") is largest
    assert algorithm("largest+qat").parts == (largest, algorithm("qat"))
    space = default_space(["largest"])
    assert SearchSpace.parse(space.wire).algorithms[0].axis() is not None
    generator = AutoCompressionSearchSpaceGenerator()
    with pytest.raises(ConfigError, match="power must be a whole number >= 1; got 0"):
        generator.add_config("largest", [largest.default_entry()], power=0)
    net, inputs = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), (torch.ones(1, 1, 8, 8),)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, 1.0, 4.0, 2.0])[:, None, None, None].expand_as(net[0].weight))
    request = CompressionRequest("largest", (LayerRule(("default",), rate=0.5),), inputs)
    smaller = compressor("largest").compress(net, request).model
    assert sorted(smaller[0].weight.detach()[:, 0, 0, 0].tolist()) == [1.0, 2.0], "the largest have gone"
    assert register_algorithm(Largest()) is algorithm("largest"), "a file that is imported again registers it again"


class Taken(FilterPruner):
    name = "l2"


L2 = type("L2", (FilterPruner,), {"name": "l2"})  # as our own class is called
NoKind = type("NoKind", (Algorithm,), {"name": "no_kind", "compressor": lambda self: None, "kind": None})


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Largest, "register_algorithm must be given an instance of a pruner or quantizer; got <class"),
        ("l2", "register_algorithm must be given an instance of a pruner or quantizer; got 'l2'"),
        (Taken(), "the name of an algorithm must be its own; 'l2' is taken by <algorithm 'l2'>"),
        (L2(), "the name of an algorithm must be its own; 'l2' is taken by <algorithm 'l2'>"),
        (NoKind(), "register_algorithm must be given an instance of a pruner or quantizer; got "),
        (type("Odd", (FilterPruner,), {"name": "a:b"})(), "must be of letters, digits and _; got 'a:b'"),
        (type("Bare", (FilterPruner,), {})(), "must be of letters, digits and _; got ''"),
    ],
)
def test_what_cannot_be_registered(given, message):
    before = algorithms()
    with pytest.raises(ConfigError, match=re.escape(message)):
        register_algorithm(given)
    assert algorithms() == before


def test_installed_packages_add_algorithms(tmp_path):
    """A broken one is warned of and stops nothing."""
    (tmp_path / "others.py").write_text(
        "from autocompress.compression.pruning.pruner import FilterPruner\n"
        "class Mine(FilterPruner):\n    name = 'mine'\n"
    )
    info = tmp_path / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[autocompress.algorithms]\nmine = others:Mine\nbroken = others:Nowhere\ntaken = others_that_are_not:L2\n"
    )
    code = "from autocompress.registry import algorithms; print(*algorithms())"
    path = os.pathsep.join([str(tmp_path), *sys.path])
    seen = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert seen.stdout.split()[-1] == "mine"
    assert "'broken'" in seen.stderr
    assert "'taken'" in seen.stderr


@pytest.mark.parametrize("name", algorithms())
def test_every_default_is_allowed(name):
    for argument in algorithm(name).arguments:
        assert argument.check(argument.default) == argument.default


@pytest.mark.parametrize("name", ["levle", "l1+levle"])
def test_an_unknown_algorithm(name):
    message = f"unknown algorithm 'levle'; did you mean 'level'? (known: {', '.join(sorted(algorithms()))})"
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


EPOCHS = Argument("epochs", 1, minimum=1)
SCALE = Argument("scale", 1e-4)
MODE = Argument("mode", "normal", options=("normal", "global"))
FLAG = Argument("flag", False)
SCOPES = Argument("scopes", ())


@pytest.mark.parametrize(
    ("argument", "value", "checked"),
    [
        (EPOCHS, 3, 3),
        (EPOCHS, 3.0, 3),
        (SCALE, 1, 1),
        (SCALE, 0.0, 0.0),
        (MODE, "global", "global"),
        (FLAG, True, True),
        (SCOPES, ["a", "{re}b"], ("a", "{re}b")),
        (SCOPES, "a", ("a",)),
        (SCOPES, [], ()),
    ],
)
def test_allowed_values(argument, value, checked):
    answer = argument.check(value)
    assert (answer, type(answer)) == (checked, type(checked))


@pytest.mark.parametrize(
    ("argument", "value", "rule"),
    [
        (EPOCHS, 0, "a whole number >= 1"),
        (EPOCHS, 1.5, "a whole number >= 1"),
        (EPOCHS, True, "a whole number >= 1"),
        (EPOCHS, "2", "a whole number >= 1"),
        (SCALE, -1e-9, "a finite number >= 0"),
        (SCALE, math.inf, "a finite number >= 0"),
        (SCALE, None, "a finite number >= 0"),
        (MODE, "Global", "one of 'normal', 'global'"),
        (FLAG, 1, "true or false"),
        (SCOPES, [1], "a list of strings"),
        (SCOPES, 1, "a list of strings"),
    ],
)
def test_refused_values(argument, value, rule):
    with pytest.raises(ConfigError, match=f"^{re.escape(f'{argument.name} must be {rule}; got {value!r}')}$"):
        argument.check(value)
