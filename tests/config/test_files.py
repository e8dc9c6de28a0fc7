"""Reading search spaces, and the files that the repository ships."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from nni import NoMoreTrialError
from nni.algorithms.hpo.random_tuner import RandomTuner

from autocompress.algorithms import ALGORITHMS
from autocompress.config import (
    AccuracyAwareSettings,
    AutoCompressionSearchSpaceGenerator,
    SearchSpace,
    load_search_space,
    read_parameters,
)
from autocompress.engines.nni.flat import flattened, nested
from autocompress.errors import ConfigError

SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.json"))
RATES = [0.0, 0.5, 1.0]


def test_the_shipped_files():
    stems = {path.stem for path in SHIPPED}
    assert stems == {*ALGORITHMS, "l2_qat", "level_qat", "pruners", "quantizers", "per_layer"}


@pytest.fixture(params=SHIPPED, ids=lambda path: path.stem)
def space(request):
    loaded = load_search_space(request.param)
    assert loaded.wire == json.loads(request.param.read_text())
    return loaded


@pytest.mark.parametrize("position", RATES)
def test_a_shipped_file_gives_trials_along_its_axis(space, position):
    for algorithm in space.algorithms:
        axis = algorithm.axis()
        assert (axis is None) == (algorithm.kind == "quantizer")
        rate = axis and axis.snap(axis.low + position * (axis.high - axis.low))
        read = read_parameters(json.loads(json.dumps(algorithm.parameters(rate))))
        assert read.name == algorithm.name
        assert len(read.rules) == len(algorithm.entries)
        several = sum(rule.sparsity is not None for rule in algorithm.entries) > 1
        assert read.requested_rate() == (None if several else rate)
        assert algorithm.held == ()


def test_the_search_starts_on_a_shipped_file(space):
    settings = AccuracyAwareSettings()
    for search in settings.searches(space):
        proposal = search.next([])
        assert proposal is not None
        assert read_parameters(settings.parameters(space, search.algorithm, proposal.compression_rate)).rules


def test_a_tuner_of_nni_samples_a_shipped_file(space):
    tuner, seen = RandomTuner(seed=1), set()
    tuner.update_search_space(flattened(space.wire))
    with contextlib.suppress(NoMoreTrialError):  # a quantizer has only constants
        for number in range(80):
            seen.add(read_parameters(nested(tuner.generate_parameters(number))).name)
    assert seen == {algorithm.name for algorithm in space.algorithms}


def test_a_shipped_file_is_what_the_generator_gives(space):
    assert AutoCompressionSearchSpaceGenerator.loads(space.wire).dumps() == space.wire
    generator = AutoCompressionSearchSpaceGenerator()
    for algorithm in space.algorithms:
        generator.add_config(algorithm.name, [entry(rule) for rule in algorithm.entries])
    assert generator.dumps() == space.wire


def entry(rule):
    layers = {"op_types": list(rule.op_types), "op_names": list(rule.op_names)}
    if rule.exclude:
        return {**layers, "exclude": True}
    if rule.quant_types is not None:
        return {
            **layers,
            "quant_types": list(rule.quant_types),
            "quant_bits": dict(rule.variables)["quant_bits"].middle(),
        }
    return {**layers, "sparsity": {"_type": rule.sparsity.type, "_value": list(rule.sparsity.values)}}


GOOD = '{"algorithm_name": {"_type": "choice", "_value": [{"_name": "l1", "config_list::A::::sparsity": %s}]}}'
SPARSITY = '{"_type": "uniform", "_value": [0.1, 0.9]}'


def test_every_source(tmp_path):
    path = tmp_path / "space.json"
    path.write_text(GOOD % SPARSITY)
    loaded = load_search_space(path)
    assert isinstance(loaded, SearchSpace)
    generator = AutoCompressionSearchSpaceGenerator.loads(loaded.wire)
    assert load_search_space(str(path)) == load_search_space(generator) == load_search_space(loaded.wire) == loaded
    assert load_search_space(loaded) is loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON: Expecting property name"),
        (b"\xff\xfe\xfa", "must be UTF-8 text"),
        ("[]", ": a search space must be an object with the one key 'algorithm_name'; got []"),
        ('{"a": 1, "a": 2}', ": an object must have each key once; got 'a' twice"),
        (
            GOOD % '{"_type": "uniform", "_value": [0.1, 1.9]}',
            "config_list::A::::sparsity must be in [0, 1), numbers only; got 1.9",
        ),
        (GOOD % '{"_type": "uniform", "_value": [0.1, NaN]}', "must be JSON"),
    ],
)
def test_errors_name_the_file(tmp_path, text, message):
    path = tmp_path / "space.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        load_search_space(path)
    assert str(caught.value).startswith(f"search space file {path}")
    assert message in str(caught.value)
    assert caught.value.__cause__ is not None


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_search_space(tmp_path / "no.json")
    assert (
        str(caught.value)
        == f"search space file must be readable; got {tmp_path / 'no.json'}: No such file or directory"
    )


@pytest.mark.parametrize("source", [None, 3, ["l1"]])
def test_other_sources(source):
    with pytest.raises(ConfigError, match="a search space must be an object"):
        load_search_space(source)
