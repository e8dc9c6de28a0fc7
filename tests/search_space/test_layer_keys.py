from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError
from autocompress.layer_selector import QUANT_TYPES, LayerSelector
from autocompress.search_space.layer_keys import argument_key, parse_key

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
