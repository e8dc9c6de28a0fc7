from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.config.rates import at, cut, rate_axis
from autocompress.config.values import parse_values
from autocompress.errors import ConfigError
from autocompress.search import RateAxis

KEY = "config_list::Conv2d::::sparsity"


def axis(kind, *values):
    return rate_axis(KEY, parse_values(KEY, {"_type": kind, "_value": list(values)}))


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
        ("uniform", [0, 1.0], f"{KEY} must be in [0, 1), numbers only; got 1.0"),
        ("uniform", [-0.1, 0.5], f"{KEY} must be in [0, 1), numbers only; got -0.1"),
        ("choice", [0.1, 1], f"{KEY} must be in [0, 1), numbers only; got 1"),
        ("choice", ["0.1"], f"{KEY} must be in [0, 1), numbers only; got '0.1'"),
        ("choice", [True], f"{KEY} must be in [0, 1), numbers only; got True"),
        ("choice", [None], f"{KEY} must be in [0, 1), numbers only; got None"),
        (
            "randint",
            [0, 1],
            f"{KEY}: '_type' of a sparsity must be one of uniform, quniform, loguniform, choice; got 'randint'",
        ),
        ("normal", [0.5, 0.1], "must be one of uniform, quniform, loguniform, choice; got 'normal'"),
        ("quniform", [0.1, 0.2, 0.00001], f"{KEY}: q of a sparsity must be at least 0.0001; got 1e-05"),
        ("quniform", [0.1, 0.2, 0.5], "must have a multiple of q between low and high; got [0.1, 0.2, 0.5]"),
    ],
)
def test_axis_errors(kind, values, message):
    with pytest.raises(ConfigError) as caught:
        axis(kind, *values)
    assert message in str(caught.value)
    assert KEY in str(caught.value)


def test_sparsity_must_not_be_a_group():
    with pytest.raises(ConfigError, match="must be a number or an object with '_type' and '_value'; got names: weight"):
        rate_axis(KEY, parse_values(KEY, {"weight": {"_type": "choice", "_value": [0.5]}}))


def test_cut():
    assert cut(KEY, RateAxis(0.1, 0.99), 0.0, 0.95) == RateAxis(0.1, 0.95)
    assert cut(KEY, RateAxis(0.1, 0.9, (0.1, 0.5, 0.9)), 0.2, 0.95) == RateAxis(0.5, 0.9, (0.5, 0.9))


@pytest.mark.parametrize(
    ("given_axis", "got"),
    [(RateAxis(0.96, 0.99), "[0.96, 0.99]"), (RateAxis(0.1, 0.99, (0.1, 0.99)), "[0.1, 0.99]")],
)
def test_cut_to_nothing(given_axis, got):
    with pytest.raises(ConfigError) as caught:
        cut(KEY, given_axis, 0.2, 0.95)
    assert str(caught.value) == (
        f"{KEY} must have a rate between minimal_compression_rate 0.2 and maximal_compression_rate 0.95; got {got}"
    )


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=6), st.floats(0, 1))
def test_a_position_gives_an_allowed_rate(rates, position):
    built = axis("choice", *rates)
    assert at(built, position) in (built.allowed or ())


@given(st.floats(0, 0.5), st.floats(0.5, 0.999), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_position_never_lowers_the_rate(low, high, one, other):
    built = axis("uniform", low, high)
    assert built.low <= at(built, min(one, other)) <= at(built, max(one, other)) <= built.high
