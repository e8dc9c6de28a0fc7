from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError
from autocompress.plain_json import is_number, plain
from autocompress.search import RateAxis
from autocompress.search_space.values import parse_values, rate_at, rate_axis, restrict, wrap

KEY = "parameter::x"


def space(kind, *values):
    return {"_type": kind, "_value": list(values)}


@pytest.mark.parametrize(
    ("wire", "middle", "constant"),
    [
        (space("choice", 8), 8, True),
        (space("choice", "a", "b"), "a", False),
        (space("choice", [1, 2]), [1, 2], True),
        (space("choice", None), None, True),
        (space("uniform", 0.2, 0.6), pytest.approx(0.4), False),
        (space("quniform", 1, 9, 4), 4, False),
        (space("quniform", 1, 2, 4), 1, False),
        (space("loguniform", 0.01, 1), pytest.approx(0.1), False),
        (space("qloguniform", 1, 100, 5), 10, False),
        (space("randint", 0, 5), 2, False),
        (space("normal", 3, 1), 3, False),
        (space("qnormal", 3.4, 1, 1), 3, False),
        (space("lognormal", 0, 1), 1.0, False),
        (space("qlognormal", 1, 1, 0.5), 2.5, False),
        ({"weight": space("choice", 8, 4), "output": space("choice", 8)}, {"weight": 8, "output": 8}, False),
        ({"weight": space("choice", 8)}, {"weight": 8}, True),
        (space("choice", {"_name": "a", "n": space("randint", 0, 3)}), {"_name": "a", "n": 1}, False),
        (space("choice", {"_name": "a"}), {"_name": "a"}, True),
        (space("choice", {"plain": 1}), {"plain": 1}, True),
    ],
)
def test_middle(wire, middle, constant):
    values = parse_values(KEY, wire)
    assert values.middle() == middle
    assert values.is_constant is constant


def test_middle_is_a_copy():
    values = parse_values(KEY, space("choice", [1]))
    values.middle().append(2)
    assert values.middle() == [1]


def test_wrap_as_nni_does():
    assert wrap(8) == space("choice", 8)
    assert wrap([1]) == space("choice", [1])
    assert wrap({"weight": 8, "deep": {"output": 4}}) == {
        "weight": space("choice", 8),
        "deep": {"output": space("choice", 4)},
    }
    assert wrap(space("uniform", 0, 1)) == space("uniform", 0, 1)


@pytest.mark.parametrize(
    ("wire", "message"),
    [
        (0.5, f"{KEY} must be an object with '_type' and '_value'; got 0.5"),
        ({}, f"{KEY} must be an object with '_type' and '_value'; got {{}}"),
        ({"weight": 8}, f"{KEY}.weight must be an object with '_type' and '_value'; got 8"),
        ({"_type": "choice"}, "must have '_type' and '_value' and nothing else; got ['_type']"),
        ({"_type": "choice", "_value": [1], "x": 1}, "nothing else; got ['_type', '_value', 'x']"),
        (space("unifrom", 0, 1), f"{KEY}: unknown _type 'unifrom'; did you mean 'uniform'"),
        ({"_type": ["x"], "_value": [1]}, "unknown _type"),
        (space("choice"), "'_value' must be a list that is not empty; got []"),
        ({"_type": "uniform", "_value": 3}, "'_value' must be a list that is not empty; got 3"),
        (space("uniform", 0.1), "'_value' of uniform must be the numbers [low, high]; got [0.1]"),
        (space("uniform", 0, True), "must be the numbers [low, high]; got [0, True]"),
        (space("uniform", "0", "1"), "must be the numbers [low, high]; got ['0', '1']"),
        (space("quniform", 0, 1), "must be the numbers [low, high, q]; got [0, 1]"),
        (space("quniform", 0, 1, 0), "must have q > 0; got [0, 1, 0]"),
        (space("uniform", 1, 0), "must have low <= high; got [1, 0]"),
        (space("loguniform", 0, 1), "must have low > 0; got [0, 1]"),
        (space("randint", 0, 1.5), "must have whole numbers with low < high; got [0, 1.5]"),
        (space("randint", 2, 2), "must have whole numbers with low < high; got [2, 2]"),
        (space("normal", 0, -1), "must have sigma >= 0; got [0, -1]"),
        (space("choice", {"_name": "a", "n": 1}), f"{KEY}[0].n must be an object"),
    ],
)
def test_errors(wire, message):
    with pytest.raises(ConfigError) as caught:
        parse_values(KEY, wire)
    assert message in str(caught.value)
    assert KEY in str(caught.value)


def test_plain_copies_and_turns_tuples_into_lists():
    given = {"a": (1, [2.0, None, True])}
    copied = plain("x", given)
    assert copied == {"a": [1, [2.0, None, True]]}
    copied["a"][1].append(3)
    assert given == {"a": (1, [2.0, None, True])}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": [float("nan")]},
            "x.a[0] must be JSON: objects, lists, strings, finite numbers, booleans or null; got nan",
        ),
        ({"a": {1}}, "x.a must be JSON"),
        ({1: 2}, "the keys of x must be strings; got 1"),
    ],
)
def test_plain_errors(value, message):
    with pytest.raises(ConfigError) as caught:
        plain("x", value)
    assert message in str(caught.value)


def test_numbers():
    assert is_number(1)
    assert is_number(0.5)
    assert not any(is_number(value) for value in (True, "1", None, float("nan"), float("inf"), 10**400))


RATE_KEY = "config_list::Conv2d::::sparsity"


def axis(kind, *values):
    return rate_axis(RATE_KEY, parse_values(RATE_KEY, {"_type": kind, "_value": list(values)}))


@pytest.mark.parametrize(
    ("built", "low", "high", "allowed"),
    [
        (axis("uniform", 0.01, 0.9), 0.01, 0.9, None),
        (axis("loguniform", 0.1, 0.9), 0.1, 0.9, None),
        (axis("choice", 0.5, 0.3, 0.5), 0.3, 0.5, (0.3, 0.5)),
        (axis("choice", 0.5), 0.5, 0.5, (0.5,)),
        (axis("quniform", 0.1, 0.55, 0.1), 0.1, 0.5, (0.1, 0.2, 0.3, 0.4, 0.5)),
        (axis("quniform", 0.3, 0.9, 0.3), 0.3, 0.9, (0.3, 0.6, 0.9)),
        (axis("quniform", 0, 0.5, 0.25), 0.0, 0.5, (0.0, 0.25, 0.5)),
    ],
)
def test_axis(built, low, high, allowed):
    assert built == RateAxis(low, high, allowed)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("uniform", [0, 1.0], f"{RATE_KEY} must be in [0, 1), numbers only; got 1.0"),
        ("uniform", [-0.1, 0.5], f"{RATE_KEY} must be in [0, 1), numbers only; got -0.1"),
        ("choice", [0.1, 1], f"{RATE_KEY} must be in [0, 1), numbers only; got 1"),
        ("choice", ["0.1"], f"{RATE_KEY} must be in [0, 1), numbers only; got '0.1'"),
        ("choice", [True], f"{RATE_KEY} must be in [0, 1), numbers only; got True"),
        ("choice", [None], f"{RATE_KEY} must be in [0, 1), numbers only; got None"),
        (
            "randint",
            [0, 1],
            f"{RATE_KEY}: '_type' of a sparsity must be one of uniform, quniform, loguniform, choice; got 'randint'",
        ),
        ("normal", [0.5, 0.1], "must be one of uniform, quniform, loguniform, choice; got 'normal'"),
        ("quniform", [0.1, 0.2, 0.00001], f"{RATE_KEY}: q of a sparsity must be at least 0.0001; got 1e-05"),
        ("quniform", [0.1, 0.2, 0.5], "must have a multiple of q between low and high; got [0.1, 0.2, 0.5]"),
    ],
)
def test_axis_errors(kind, values, message):
    with pytest.raises(ConfigError) as caught:
        axis(kind, *values)
    assert message in str(caught.value)
    assert RATE_KEY in str(caught.value)


def test_sparsity_must_not_be_a_group():
    with pytest.raises(ConfigError, match="must be a number or an object with '_type' and '_value'; got names: weight"):
        rate_axis(RATE_KEY, parse_values(RATE_KEY, {"weight": {"_type": "choice", "_value": [0.5]}}))


def test_cut():
    assert restrict(RATE_KEY, RateAxis(0.1, 0.99), 0.0, 0.95) == RateAxis(0.1, 0.95)
    assert restrict(RATE_KEY, RateAxis(0.1, 0.9, (0.1, 0.5, 0.9)), 0.2, 0.95) == RateAxis(0.5, 0.9, (0.5, 0.9))


@pytest.mark.parametrize(
    ("given_axis", "got"),
    [(RateAxis(0.96, 0.99), "[0.96, 0.99]"), (RateAxis(0.1, 0.99, (0.1, 0.99)), "[0.1, 0.99]")],
)
def test_cut_to_nothing(given_axis, got):
    with pytest.raises(ConfigError) as caught:
        restrict(RATE_KEY, given_axis, 0.2, 0.95)
    assert str(caught.value) == (
        f"{RATE_KEY} must have a rate between minimal_compression_rate 0.2 and maximal_compression_rate 0.95; got {got}"
    )


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=6), st.floats(0, 1))
def test_a_position_gives_an_allowed_rate(rates, position):
    built = axis("choice", *rates)
    assert rate_at(built, position) in (built.allowed or ())


@given(st.floats(0, 0.5), st.floats(0.5, 0.999), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_position_never_lowers_the_rate(low, high, one, other):
    built = axis("uniform", low, high)
    assert built.low <= rate_at(built, min(one, other)) <= rate_at(built, max(one, other)) <= built.high
