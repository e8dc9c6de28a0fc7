from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError
from autocompress.layer_selector import QUANT_TYPES, LayerSelector
from autocompress.search import RateAxis
from autocompress.search_space import AlgorithmSpace, SearchSpace, read_parameters, requested_rate
from autocompress.search_space.space import argument_key, parse_key

names = st.text(min_size=1, max_size=8).filter(lambda name: ":" not in name)
name_lists = st.lists(names, max_size=3, unique=True).map(tuple)


def written(layers, name):
    return argument_key(name) if layers is None else layers.key(name)


@pytest.mark.parametrize(
    ("layers", "name", "kind", "text"),
    [
        (LayerSelector(("default",), ()), "sparsity", "pruner", "config_list::default::::sparsity"),
        (LayerSelector((), ("conv1", "a.b")), "exclude", "pruner", "config_list::::conv1:a.b::exclude"),
        (LayerSelector(("Conv2d", "Linear"), ("x",)), "sparsity", "pruner", "config_list::Conv2d:Linear::x::sparsity"),
        (
            LayerSelector(("Conv2d",), (), ("weight", "output")),
            "quant_bits",
            "quantizer",
            "config_list::weight:output::Conv2d::::quant_bits",
        ),
        (LayerSelector(("Conv2d",), (), ()), "exclude", "quantizer", "config_list::::Conv2d::::exclude"),
        (None, "mode", "pruner", "parameter::mode"),
    ],
)
def test_format_of_nni(layers, name, kind, text):
    assert written(layers, name) == text
    assert parse_key(text, kind) == (layers, name)


@given(op_types=name_lists, op_names=name_lists, variable=names)
def test_pruner_keys_round_trip(op_types, op_names, variable):
    if op_types or op_names:
        layers = LayerSelector(op_types, op_names)
        assert parse_key(layers.key(variable), "pruner") == (layers, variable)


@given(quant_types=st.lists(st.sampled_from(QUANT_TYPES), unique=True).map(tuple), op_types=name_lists, variable=names)
def test_quantizer_keys_round_trip(quant_types, op_types, variable):
    layers = LayerSelector(op_types, ("conv1",), quant_types)
    assert parse_key(layers.key(variable), "quantizer") == (layers, variable)


@given(names)
def test_argument_keys_round_trip(name):
    assert parse_key(argument_key(name), "pruner") == (None, name)


@given(
    st.text(alphabet=":ab", max_size=12).map(lambda tail: f"config_list{tail}"),
    st.sampled_from(["pruner", "quantizer"]),
)
def test_whatever_parses_is_written_the_same(text, kind):
    try:
        key = parse_key(text, kind)
    except ConfigError:
        return
    assert written(*key) == text


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("sparsity", "pruner", "a key of a pruner must be 'config_list::<op_types>::<op_names>::<variable>' or"),
        ("sparsity", "pruner", "'parameter::<name>'; got 'sparsity'"),
        ("config_list::Conv2d::sparsity", "pruner", "got 'config_list::Conv2d::sparsity'"),
        (
            "config_list::Conv2d::::sparsity",
            "quantizer",
            "'config_list::<quant_types>::<op_types>::<op_names>::<variable>'",
        ),
        ("config_list::::::sparsity", "pruner", "must have op_types or op_names; got neither"),
        (
            "config_list::Conv2d:::x::sparsity",
            "pruner",
            "a name in op_names must be a string without ':' that is not empty; got ''",
        ),
        (
            "config_list::Conv2d:Conv2d::::sparsity",
            "pruner",
            "op_types must not name anything twice; got ['Conv2d', 'Conv2d']",
        ),
        (
            "config_list::wieght::Conv2d::::quant_bits",
            "quantizer",
            "unknown quant type 'wieght'; did you mean 'weight'?",
        ),
        ("parameter::", "pruner", "a name in parameter must be"),
    ],
)
def test_errors(text, kind, message):
    with pytest.raises(ConfigError) as caught:
        parse_key(text, kind)
    assert message in str(caught.value)
    assert repr(text) in str(caught.value)


CONV, LINEAR = "config_list::Conv2d::::sparsity", "config_list::Linear::::sparsity"


def choice(*values):
    return {"_type": "choice", "_value": list(values)}


def values(kind, *numbers):
    return {"_type": kind, "_value": list(numbers)}


def algorithm(name="l1", **keys):
    return AlgorithmSpace.parse({"_name": name, **keys})


def l1(*sparsities):
    return algorithm(**dict(zip((CONV, LINEAR), sparsities, strict=False)))


@pytest.mark.parametrize(
    ("space", "axis"),
    [
        (l1(values("uniform", 0.01, 0.99)), RateAxis(0.1, 0.95)),
        (l1(values("loguniform", 0.2, 0.5)), RateAxis(0.2, 0.5)),
        (l1(values("quniform", 0.0, 0.5, 0.2)), RateAxis(0.2, 0.4, (0.2, 0.4))),
        (l1(choice(0.5, 0.3, 0.05)), RateAxis(0.3, 0.5, (0.3, 0.5))),
        (l1(choice(0.5)), None),
        (l1(choice(0.05)), None),
        (l1(choice(0.5, 0.5)), None),
        (l1(values("uniform", 0.5, 0.5)), None),
        (l1(values("uniform", 0.01, 0.5), choice(0.97)), RateAxis(0.1, 0.5)),
        (l1(values("uniform", 0.01, 0.5), choice(0.2, 0.3)), RateAxis(0.0, 1.0)),
        (l1(values("uniform", 0.0, 0.1)), None),
        (algorithm("qat", **{"config_list::weight::Conv2d::::quant_bits": choice(8)}), None),
    ],
)
def test_axis(space, axis):
    assert space.axis(0.1, 0.95) == axis


def test_axis_is_cut_to_nothing():
    with pytest.raises(ConfigError, match=rf"{CONV} must have a rate between .* got \[0.01, 0.05\]"):
        l1(values("uniform", 0.01, 0.05)).axis(0.1, 0.95)


@pytest.mark.parametrize(
    ("space", "rate", "expected"),
    [
        (l1(values("uniform", 0.01, 0.99)), 0.35, [0.35]),
        (l1(values("uniform", 0.01, 0.99)), 0.1 + 0.2, [0.3]),
        (l1(choice(0.3, 0.5)), 0.5, [0.5]),
        (l1(choice(0.5)), None, [0.5]),
        (l1(values("uniform", 0.0, 0.1)), None, [0.1]),
        (l1(values("quniform", 0.5, 0.7, 0.3)), None, [0.6]),
        (l1(values("uniform", 0.01, 0.5), choice(0.97)), 0.2, [0.2, 0.97]),
        (l1(values("uniform", 0.2, 0.6), values("uniform", 0.0, 0.99)), 0.0, [0.2, 0.1]),
        (l1(values("uniform", 0.2, 0.6), values("uniform", 0.0, 0.99)), 0.5, [0.4, 0.525]),
        (l1(values("uniform", 0.2, 0.6), values("uniform", 0.0, 0.99)), 1.0, [0.6, 0.95]),
        (l1(choice(0.9, 0.2, 0.4), values("quniform", 0.1, 0.5, 0.1)), 0.5, [0.4, 0.3]),
        (l1(choice(0.9, 0.2, 0.4), values("quniform", 0.1, 0.5, 0.1)), 1.0, [0.9, 0.5]),
    ],
)
def test_parameters(space, rate, expected):
    parameters = space.parameters(rate, 0.1, 0.95)
    assert list(parameters["algorithm_name"].values()) == ["l1", *expected]
    read = read_parameters(parameters)
    assert [rule.rate for rule in read.rules] == expected
    assert requested_rate(parameters) == (expected[0] if len(expected) == 1 else None)


@pytest.mark.parametrize(
    ("space", "rate", "message"),
    [
        (l1(values("uniform", 0.2, 0.6)), None, "the rate of algorithm 'l1' must be in [0.2, 0.6]; got None"),
        (l1(values("uniform", 0.2, 0.6)), 0.7, "must be in [0.2, 0.6]; got 0.7"),
        (l1(values("uniform", 0.2, 0.6), choice(0.1, 0.2)), 1.1, "must be in [0.0, 1.0]; got 1.1"),
        (l1(choice(0.5)), 0.5, "must be None, as no sparsity has several values; got 0.5"),
    ],
)
def test_rates_that_are_not_on_the_axis(space, rate, message):
    with pytest.raises(ConfigError) as caught:
        space.parameters(rate)
    assert message in str(caught.value)


def test_other_variables_are_held_and_listed():
    bits = "config_list::weight:output::Conv2d::::quant_bits"
    space = algorithm(
        "qat",
        **{
            bits: {"weight": choice(8, 4), "output": choice(8)},
            "config_list::weight:output::Conv2d::::quant_dtype": choice("int", "uint"),
            "config_list::::::fc::exclude": choice(True),
            "parameter::validate_scopes": choice(True, False),
            "parameter::ignored_scopes": choice(["x"]),
        },
    )
    assert space.fixed_variables == (
        (bits, {"weight": 8, "output": 8}),
        ("config_list::weight:output::Conv2d::::quant_dtype", "int"),
        ("parameter::validate_scopes", True),
    )
    assert space.parameters(None)["algorithm_name"] == {
        "_name": "qat",
        bits: {"weight": 8, "output": 8},
        "config_list::weight:output::Conv2d::::quant_dtype": "int",
        "config_list::::::fc::exclude": True,
        "parameter::validate_scopes": True,
        "parameter::ignored_scopes": ["x"],
    }
    assert l1(values("uniform", 0.2, 0.6)).fixed_variables == ()


def wire(*options):
    return {"algorithm_name": choice(*options)}


GOOD = {"_name": "l1", CONV: choice(0.5)}


def test_a_space_keeps_its_json_to_itself():
    given = wire(GOOD)
    space = SearchSpace.parse(given)
    given["algorithm_name"]["_value"].append("x")
    space.wire["algorithm_name"]["_value"].append("y")
    assert space.wire == wire(GOOD)
    assert space.algorithm("l1").name == "l1"
    assert space == SearchSpace.parse(space.wire)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "a search space must be an object with the one key 'algorithm_name'; got []"),
        ({"x": 1, "algorithm_name": 2}, "the one key 'algorithm_name'; got ['algorithm_name', 'x']"),
        ({"algorithm_name": "l1"}, "algorithm_name must be {'_type': 'choice', '_value': [...]}; got 'l1'"),
        ({"algorithm_name": values("uniform", 0, 1)}, "algorithm_name must be {'_type': 'choice'"),
        ({"algorithm_name": {"_type": "choice", "_value": "l1"}}, "'_value' must be a list of algorithms; got 'l1'"),
        (wire(), "'_value' must have at least one algorithm; got none"),
        (wire("l1"), "an option of algorithm_name must be an object with '_name', the name of an algorithm; got 'l1'"),
        (wire({CONV: choice(0.5)}), "must be an object with '_name'"),
        (wire({"_name": "l11"}), "unknown algorithm 'l11'; did you mean 'l1'?"),
        (
            wire({"_name": "l1"}),
            "algorithm 'l1': config_list must have at least one entry that compresses; got an empty list",
        ),
        (wire(GOOD, GOOD), "a search space must have each algorithm once; got 'l1' 2 times"),
        (wire({**GOOD, "sparsity": 1}), "algorithm 'l1': a key of a pruner must be"),
        (wire({**GOOD, "config_list::Linear::::quant_bits": choice(8)}), "unknown variable of a pruner 'quant_bits'"),
        (wire({**GOOD, "config_list::Conv2d::::exclude": choice(True)}), "must have sparsity or exclude, not both"),
        (
            wire({**GOOD, "config_list::Linear::::exclude": choice(False)}),
            "config_list::Linear::::exclude must be true",
        ),
        (wire({**GOOD, "config_list::Linear::::exclude": choice(True, False)}), "exclude must be true"),
        (wire({"_name": "l1", CONV: 0.5}), f"{CONV} must be an object with '_type' and '_value'; got 0.5"),
        (wire({"_name": "l1", CONV: values("uniform", 0.5, 1)}), f"{CONV} must be in [0, 1), numbers only; got 1"),
        (wire({"_name": "l1", CONV: {"a": choice(0.5)}}), f"{CONV} must be a number or an object"),
        (
            wire({**GOOD, "parameter::mode": choice(1)}),
            "algorithm 'l1': mode must be one of 'normal', 'global', 'dependency_aware'; got 1",
        ),
        (
            wire({"_name": "qat", "config_list::::Conv2d::::quant_bits": choice(8)}),
            "must have quant_types; got none for",
        ),
        (
            wire({"_name": "l1", CONV: choice(float("nan"))}),
            "[0] must be JSON: objects, lists, strings, finite numbers",
        ),
    ],
)
def test_errors_space(given, message):
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse(given)
    assert message in str(caught.value)


def test_errors_inside_an_algorithm_chain_their_cause():
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse(wire({**GOOD, "sparsity": 1}))
    assert isinstance(caught.value.__cause__, ConfigError)


def test_unknown_algorithm_of_a_space():
    with pytest.raises(
        ConfigError, match=r"unknown algorithm of the search space 'l2'; did you mean 'l1'\? \(known: l1\)"
    ):
        SearchSpace.parse(wire(GOOD)).algorithm("l2")


def rated(name, low, high, **others):
    sparsity = {"_type": "uniform", "_value": [low, high]}
    return {"_name": name, "config_list::weight::default::::sparsity": sparsity, **others}


def test_a_quantizer_that_leaves_layers_in_floating_point_has_a_rate():
    space = AlgorithmSpace.parse(rated("int8_dynamic", 0.0, 0.75))
    assert space.axis() == RateAxis(0.0, 0.75)
    assert space.begins_uncompressed()
    parameters = space.parameters(0.5)
    assert requested_rate(parameters) == 0.5
    (rule,) = read_parameters(parameters).rules
    assert rule.rate == 0.5
    assert rule.quant_types == ("weight",)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (rated("int8_weight_only", 0.0, 0.9), "is the share of the bits to save, and must be at most 0.75"),
        (rated("qat", 0.0, 0.7), "unknown variable of a quantizer 'sparsity'"),
        (
            rated(
                "l2+int8_dynamic", 0.0, 0.7, **{"config_list::default::::sparsity": {"_type": "choice", "_value": [0]}}
            ),
            "unknown variable of a quantizer 'sparsity'",
        ),
    ],
)
def test_other_quantizers_and_mixes_have_none(wire, message):
    with pytest.raises(ConfigError, match=message):
        AlgorithmSpace.parse(wire)
