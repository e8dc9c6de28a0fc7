"""Reading search spaces, and the files that the repository ships."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nni import NoMoreTrialError
from nni.algorithms.hpo.random_tuner import RandomTuner

from autocompress.engines.nni.wire_format import flattened, nested
from autocompress.errors import ConfigError
from autocompress.registry import algorithms
from autocompress.search_space import (
    AutoCompressionSearchSpaceGenerator,
    SearchSpace,
    load_search_space,
    read_parameters,
    requested_rate,
)
from autocompress.settings import AccuracyAwareSettings

UNIFORM = {"_type": "uniform", "_value": [0.01, 0.99]}
ENTRY = {"sparsity": UNIFORM, "op_types": ["Conv2d"]}
QUANT = {
    "quant_types": ["weight", "output"],
    "quant_bits": {"weight": 8, "output": 8},
    "op_types": ["Conv2d", "Linear"],
}


def generated(name, *entries, **arguments):
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config(name, list(entries), **arguments)
    return generator.dumps()


def test_the_documented_example_of_nni():
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("level", [{"sparsity": UNIFORM, "op_types": ["default"]}])
    generator.add_config("qat", [QUANT])
    eight = {"_type": "choice", "_value": [8]}
    assert generator.dumps() == {
        "algorithm_name": {
            "_type": "choice",
            "_value": [
                {"_name": "level", "config_list::default::::sparsity": UNIFORM},
                {
                    "_name": "qat",
                    "config_list::weight:output::Conv2d:Linear::::quant_bits": {"weight": eight, "output": eight},
                },
            ],
        }
    }


def test_constants_excludes_names_and_arguments():
    entries = [{"sparsity": 0.5, "op_types": ("Conv2d",)}, {"op_names": ["conv1", "fc"], "exclude": True}]
    space = generated("slim", *entries, mode="global", training_epochs={"_type": "randint", "_value": [1, 5]})
    assert space["algorithm_name"]["_value"] == [
        {
            "_name": "slim",
            "config_list::Conv2d::::sparsity": {"_type": "choice", "_value": [0.5]},
            "config_list::::conv1:fc::exclude": {"_type": "choice", "_value": [True]},
            "parameter::mode": {"_type": "choice", "_value": ["global"]},
            "parameter::training_epochs": {"_type": "randint", "_value": [1, 5]},
        }
    ]


def test_what_the_caller_gave_is_never_changed():
    entries, arguments = (
        [copy.deepcopy(ENTRY), {"op_names": ["fc"], "exclude": True}],
        {"ignored_scopes": ["fc", "stem"]},
    )
    before = copy.deepcopy((entries, arguments))
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("slim", entries, **arguments)
    assert (entries, arguments) == before
    dumped = generator.dumps()
    entries[0]["sparsity"]["_value"][0] = 0.7
    arguments["ignored_scopes"].append("x")
    assert generator.dumps() == dumped


def test_what_it_hands_out_is_not_its_own():
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("l1", [ENTRY])
    before = copy.deepcopy(generator.dumps())
    generator.dumps()["algorithm_name"]["_value"][0]["config_list::Conv2d::::sparsity"]["_value"][0] = 0.5
    assert generator.dumps() == before
    loaded = AutoCompressionSearchSpaceGenerator.loads(before)
    loaded.add_config("l2", [ENTRY])
    assert generator.dumps() == before == AutoCompressionSearchSpaceGenerator.loads(before).dumps()


def test_the_same_layers_may_be_quantized_differently_by_quant_type():
    weight = {"quant_types": ["weight"], "quant_bits": 4, "op_types": ["Conv2d"]}
    output = {"quant_types": ["output"], "quant_bits": 8, "op_types": ["Conv2d"]}
    assert (
        len(generated("qat", weight, output, {"op_names": ["fc"], "exclude": True})["algorithm_name"]["_value"][0]) == 4
    )


NAMES = st.text(alphabet="abcXYZ._0123456789é", min_size=1, max_size=8)
RATE = st.floats(0, 0.99)
SPARSITIES = st.one_of(
    RATE,
    st.lists(RATE, min_size=1, max_size=4).map(lambda rates: {"_type": "choice", "_value": rates}),
    st.tuples(RATE, RATE).map(lambda rates: {"_type": "uniform", "_value": sorted(rates)}),
    st.tuples(st.floats(0, 0.4), st.floats(0.6, 0.99)).map(lambda r: {"_type": "quniform", "_value": [*r, 0.1]}),
)
ENTRIES = st.lists(
    st.tuples(
        st.lists(NAMES, max_size=2, unique=True), st.lists(NAMES, min_size=1, max_size=3, unique=True), SPARSITIES
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda entry: (frozenset(entry[0]), frozenset(entry[1])),
).map(lambda entries: [{"op_types": types, "op_names": names, "sparsity": rate} for types, names, rate in entries])


@given(ENTRIES, st.sampled_from(["level", "l1", "slim"]))
def test_round_trip(entries, name):
    before = copy.deepcopy(entries)
    space = generated(name, *entries)
    assert entries == before
    text = json.loads(json.dumps(space))
    assert AutoCompressionSearchSpaceGenerator.loads(text).dumps() == space
    parsed = SearchSpace.parse(text)
    assert parsed.wire == space
    (algorithm,) = parsed.algorithms
    assert [(list(rule.op_types), list(rule.op_names)) for rule in algorithm.entries] == [
        (entry["op_types"], entry["op_names"]) for entry in entries
    ]


@pytest.mark.parametrize(
    ("name", "entries", "arguments", "message"),
    [
        ("l3", [ENTRY], {}, "unknown algorithm 'l3'; did you mean 'l2' or 'l1'? (known: apoz, bnn,"),
        ("l1", [], {}, "algorithm 'l1': config_list must have at least one entry that compresses; got an empty list"),
        ("l1", "Conv2d", {}, "config_list must be a list of entries; got 'Conv2d'"),
        ("l1", [3], {}, "config_list[0] must be an object with op_types and op_names; got 3"),
        ("l1", [{**ENTRY, "sparsty": 1}], {}, "config_list[0]: unknown key 'sparsty'; did you mean 'sparsity'?"),
        ("l1", [{**ENTRY, "sparsty": 1}], {}, "(known: exclude, op_names, op_types, sparsity)"),
        ("l1", [ENTRY, {**QUANT}], {}, "config_list[1]: unknown key 'quant_types'"),
        ("qat", [{**QUANT, "sparsity": 0.5}], {}, "config_list[0]: unknown key 'sparsity'"),
        ("l1", [{"sparsity": 0.5}], {}, "config_list[0]: a config entry must have op_types or op_names; got neither"),
        (
            "l1",
            [{"sparsity": 0.5, "op_types": "Conv2d"}],
            {},
            "config_list[0]: op_types must be a list of strings; got 'Conv2d'",
        ),
        ("l1", [{"sparsity": 0.5, "op_names": [1]}], {}, "config_list[0]: op_names must be a list of strings; got [1]"),
        (
            "l1",
            [{"sparsity": 0.5, "op_names": ["a:b"]}],
            {},
            "config_list[0]: a name in op_names must be a string without ':'",
        ),
        ("l1", [{"op_types": ["Conv2d"]}], {}, "config_list[0] must have one of sparsity, exclude; got none"),
        (
            "l1",
            [{**ENTRY, "exclude": True}],
            {},
            "an entry must have sparsity or exclude, not both; got both for op_types ['Conv2d']",
        ),
        (
            "l1",
            [ENTRY, {"op_types": ["Linear"], "exclude": False}],
            {},
            "config_list::Linear::::exclude must be true (leave exclude out to compress the layers); got False",
        ),
        (
            "l1",
            [ENTRY, {**ENTRY, "sparsity": 0.5}],
            {},
            "config_list must not have two entries for the same layers; got op_types ['Conv2d'] twice",
        ),
        (
            "l1",
            [{"sparsity": 0.1, "op_types": ["A", "B"]}, {"sparsity": 0.5, "op_types": ["B", "A"]}],
            {},
            "two entries for the same layers; got op_types ['B', 'A'] twice",
        ),
        (
            "l1",
            [{"op_types": ["Conv2d"], "exclude": True}],
            {},
            "config_list must have at least one entry that compresses; got 1 with exclude",
        ),
        (
            "l1",
            [{**ENTRY, "sparsity": 1.0}],
            {},
            "algorithm 'l1': config_list::Conv2d::::sparsity must be in [0, 1), numbers only; got 1.0",
        ),
        ("l1", [{**ENTRY, "sparsity": "0.5"}], {}, "sparsity must be in [0, 1), numbers only; got '0.5'"),
        (
            "l1",
            [{**ENTRY, "sparsity": {"_type": "normal", "_value": [0.5, 1]}}],
            {},
            "one of uniform, quniform, loguniform, choice",
        ),
        (
            "l1",
            [ENTRY],
            {"mode": 1},
            "algorithm 'l1': mode must be one of 'normal', 'global', 'dependency_aware'; got 1",
        ),
        (
            "l1",
            [ENTRY],
            {"scale": 1},
            "algorithm 'l1': unknown argument of 'l1' 'scale' (known: allocation, ignored_scopes,",
        ),
        (
            "slim",
            [ENTRY],
            {"training_epochs": {"_type": "randint", "_value": [-1, 3]}},
            "must be a whole number >= 0; got -1",
        ),
        ("slim", [ENTRY], {"scale": {"_type": "choice", "_value": [0.1, -1]}}, "a finite number >= 0; got -1"),
        ("l2+qat", [ENTRY], {}, "must have at least one entry of its quantizer that compresses; got none"),
        ("l2+qat", [QUANT], {}, "must have at least one entry of its pruner that compresses; got none"),
        ("l2+qat", [{**QUANT, "sparsity": 0.5}], {}, "config_list[0]: unknown key 'sparsity'"),
        ("l2+l1", [ENTRY], {}, "a mix must have one algorithm with an adaptive compression rate"),
        ("qat", [{**QUANT, "quant_bits": 0}], {}, "quant_bits: quant_bits must be one of 1, 2"),
        ("qat", [{**QUANT, "quant_bits": {"input": 8}}], {}, "unknown quant type of this entry 'input'"),
        ("qat", [{**QUANT, "quant_scheme": "symmetric"}], {}, "quant_scheme must be one of 'per_tensor_affine'"),
        ("slim", [ENTRY], {"mode": {1}}, "algorithm 'slim': parameter::mode must be JSON"),
        ("slim", [ENTRY], {"allocation": "even"}, "allocation must be one of 'uniform', 'global', 'sensitivity', '"),
        ("level", [ENTRY], {"allocation": "sensitivity"}, "allocation must be one of 'uniform', 'global'; got"),
        ("l2", [ENTRY], {"minimal_kept": 1.0}, "minimal_kept must be a number in [0, 1); got 1.0"),
        (
            "slim",
            [ENTRY],
            {"allocation": {}},
            "algorithm 'slim': parameter::allocation must be an object with '_type' and '_value'; got {}",
        ),
        (
            "qat",
            [{"quant_bits": 8, "op_types": ["A"]}],
            {},
            "an entry of a quantizer must have quant_types; got none for op_types",
        ),
        ("qat", [{**QUANT, "quant_types": ["bias"]}], {}, "unknown quant type 'bias' (known: input, output, weight)"),
    ],
)
def test_errors(name, entries, arguments, message):
    generator = AutoCompressionSearchSpaceGenerator()
    with pytest.raises(ConfigError) as caught:
        generator.add_config(name, entries, **arguments)
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="must have at least one algorithm"):
        generator.dumps()


def test_arguments_of_an_algorithm():
    option = generated("l1", ENTRY, allocation="global", ignored_scopes="stem")["algorithm_name"]["_value"][0]
    assert option["parameter::allocation"]["_value"] == ["global"]
    assert option["parameter::ignored_scopes"]["_value"] == ["stem"]
    with pytest.raises(ConfigError, match=r"unknown argument of 'l1' 'alocation'; did you mean 'allocation'\?"):
        generated("l1", ENTRY, alocation="global")


def test_a_mix_has_the_entries_of_both():
    exclude = {"op_names": ["fc"], "exclude": True}
    space = generated("l2+qat", ENTRY, exclude, QUANT, {**exclude, "quant_types": ["output"]})
    assert list(space["algorithm_name"]["_value"][0]) == [
        "_name",
        "config_list::Conv2d::::sparsity",
        "config_list::::fc::exclude",
        "config_list::weight:output::Conv2d:Linear::::quant_bits",
        "config_list::output::::fc::exclude",
    ]
    assert AutoCompressionSearchSpaceGenerator.loads(space).dumps() == space


def test_an_algorithm_is_added_once():
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("l1", [ENTRY])
    with pytest.raises(ConfigError, match="must have each algorithm once; got 'l1' a second time"):
        generator.add_config("l1", [ENTRY])


SHIPPED = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.json"))
RATES = [0.0, 0.5, 1.0]


def test_the_shipped_files():
    stems = {path.stem for path in SHIPPED}
    assert stems == {*algorithms(), "l2_qat", "level_qat", "pruners", "quantizers", "per_layer"}


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
        parameters = json.loads(json.dumps(algorithm.parameters(rate)))
        read = read_parameters(parameters)
        assert read.name == algorithm.name
        assert len(read.rules) == len(algorithm.entries)
        several = sum(rule.sparsity is not None for rule in algorithm.entries) > 1
        assert requested_rate(parameters) == (None if several else rate)
        assert algorithm.fixed_variables == ()


def test_the_search_starts_on_a_shipped_file(space):
    settings = AccuracyAwareSettings()
    for search in settings.searches(space):
        proposal = search.next([])
        assert proposal is not None
        assert read_parameters(settings.parameters(space, search.algorithm, proposal.requested_rate)).rules


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


def test_a_search_space_is_written_to_a_file(tmp_path):
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config("l2", [{"sparsity": UNIFORM, "op_types": ["Conv2d"]}])
    generator.dump(tmp_path / "space.json")
    assert load_search_space(tmp_path / "space.json").wire == load_search_space(generator.dumps()).wire
    with pytest.raises(ConfigError, match=r"^the search space cannot be written to '/dev/null/space\.json': "):
        generator.dump("/dev/null/space.json")
