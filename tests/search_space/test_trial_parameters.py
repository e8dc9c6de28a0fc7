from __future__ import annotations

import pytest

from autocompress.errors import ConfigError
from autocompress.layer_selector import LayerRule
from autocompress.search_space import AlgorithmChoice, read_parameters, requested_rate

CONV = "config_list::Conv2d::::sparsity"


def test_the_rate_stands_once():
    only, two = {"_name": "l2", CONV: 0.35}, {"_name": "l2", CONV: 0.35, "config_list::Linear::::sparsity": 0.2}
    assert requested_rate({"algorithm_name": only}) == 0.35
    assert requested_rate({"algorithm_name": two}) is None
    assert requested_rate({"algorithm_name": two, "search": {"requested_rate": 0.5}}) == 0.5, "a position"
    assert requested_rate({"algorithm_name": {"_name": "loop"}, "search": {"requested_rate": 0.1}}) == 0.1


def test_pruner():
    given = {
        "algorithm_name": {
            "_name": "slim",
            CONV: 0.35,
            "config_list::::fc::exclude": True,
            "parameter::mode": "global",
            "parameter::training_epochs": 3.0,
            "parameter::ignored_scopes": ["stem"],
        },
        "search": {"requested_rate": 0.35, "anything": [1]},
    }
    assert read_parameters(given) == AlgorithmChoice(
        "slim",
        "pruner",
        (LayerRule(("Conv2d",), (), rate=0.35), LayerRule((), ("fc",), exclude=True)),
        {"allocation": "global", "training_epochs": 3, "ignored_scopes": ("stem",)},
    )


@pytest.mark.parametrize(
    ("mode", "allocation"), [("normal", "uniform"), ("dependency_aware", "uniform"), ("global", "global")]
)
def test_nnis_mode_is_an_allocation(mode, allocation):
    old, new = "parameter::mode", "parameter::allocation"
    chosen = {"_name": "l1", CONV: 0.5, old: mode}
    assert read_parameters({"algorithm_name": chosen}).arguments == {"allocation": allocation}
    assert read_parameters({"algorithm_name": {**chosen, new: allocation}}).arguments == {"allocation": allocation}
    with pytest.raises(ConfigError, match="allocation and mode, which is NNI's name of it, must agree; got"):
        read_parameters({"algorithm_name": {**chosen, new: "sensitivity"}})


def test_quantizer():
    key = "config_list::weight::Conv2d::conv1::"
    given = {"_name": "qat", f"{key}quant_bits": {"weight": 8}, f"{key}quant_dtype": "int"}
    read = read_parameters({"algorithm_name": given})
    quant = {"quant_bits": {"weight": 8}, "quant_dtype": "int"}
    assert read.rules == (LayerRule(("Conv2d",), ("conv1",), quant_types=("weight",), quant=quant),)
    assert requested_rate({"algorithm_name": given}) is None


def test_what_is_read_is_a_copy():
    key = "config_list::weight::Conv2d::::quant_bits"
    given = {"algorithm_name": {"_name": "qat", key: {"weight": 8}}}
    read_parameters(given).rules[0].quant["quant_bits"]["weight"] = 4
    assert given["algorithm_name"][key] == {"weight": 8}


def test_a_mix_is_read_as_its_stages():
    bits = "config_list::weight:output::Conv2d::::quant_bits"
    given = {"_name": "slim+qat", CONV: 0.5, bits: 8, "config_list::::::fc::exclude": True, "parameter::scale": 0.1}
    read = read_parameters({"algorithm_name": {**given, "parameter::ignored_scopes": "stem"}})
    slim, qat = read.stages
    assert (slim.name, slim.kind, slim.rules) == ("slim", "pruner", (LayerRule(("Conv2d",), (), rate=0.5),))
    assert slim.arguments == {"scale": 0.1, "ignored_scopes": ("stem",)}
    assert (qat.name, qat.kind, qat.arguments) == ("qat", "quantizer", {"ignored_scopes": ("stem",)})
    assert qat.rules == (
        LayerRule(("Conv2d",), (), quant_types=("weight", "output"), quant={"quant_bits": 8}),
        LayerRule((), ("fc",), exclude=True, quant_types=()),
    )
    assert requested_rate({"algorithm_name": given}) == 0.5
    assert qat.stages == (qat,)


@pytest.mark.parametrize(("sparsities", "rate"), [([0.5], 0.5), ([0], 0.0), ([0.5, 0.5], None)])
def test_requested_rate(sparsities, rate):
    keys = [CONV, "config_list::Linear::::sparsity"]
    chosen = {"_name": "l1", **dict(zip(keys, sparsities, strict=False))}
    assert requested_rate({"algorithm_name": chosen}) == rate


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "a trial's parameters must be an object with 'algorithm_name'; got []"),
        ({"x": 1}, "must be an object with 'algorithm_name'; got {'x': 1}"),
        ({"algorithm_name": {}, "serach": 1}, "unknown key of a trial's parameters 'serach'; did you mean 'search'?"),
        ({"algorithm_name": "l1"}, "algorithm_name must be an object with '_name', the name of an algorithm; got 'l1'"),
        ({"algorithm_name": {"_name": "l1", CONV: 0.5, "parameter::mode": "Global"}}, "mode must be one of 'normal', "),
        ({"algorithm_name": {"_name": "l1", CONV: 0.5, "parameter::scale": 1}}, "unknown argument of 'l1' 'scale'"),
        (
            {"algorithm_name": {"_name": "qat", "config_list::weight::Conv2d::::quant_bits": 33}},
            "config_list::weight::Conv2d::::quant_bits: quant_bits must be one of 1, 2, 3",
        ),
        (
            {"algorithm_name": {"_name": "qat", "config_list::weight::Conv2d::::quant_bits": {"output": 8}}},
            "unknown quant type of this entry 'output' (known: weight)",
        ),
        ({"algorithm_name": {"_name": "l9"}}, "unknown algorithm 'l9'"),
        (
            {"algorithm_name": {"_name": "l1"}},
            "algorithm 'l1': config_list must have at least one entry that compresses",
        ),
        (
            {"algorithm_name": {"_name": "l1", CONV: 1}},
            f"algorithm 'l1': {CONV} must be in [0, 1), numbers only; got 1",
        ),
        ({"algorithm_name": {"_name": "l1", CONV: None}}, f"{CONV} must be in [0, 1), numbers only; got None"),
        ({"algorithm_name": {"_name": "l1", CONV: [0.5]}}, f"{CONV} must be in [0, 1), numbers only; got [0.5]"),
        (
            {"algorithm_name": {"_name": "l1", CONV: 0.5, "config_list::::fc::exclude": 1}},
            "config_list::::fc::exclude must be true (leave exclude out to compress the layers); got 1",
        ),
        ({"algorithm_name": {"_name": "l1", CONV: 0.5, "x": 1}}, "a key of a pruner must be"),
    ],
)
def test_errors(given, message):
    with pytest.raises(ConfigError) as caught:
        read_parameters(given)
    assert message in str(caught.value)
