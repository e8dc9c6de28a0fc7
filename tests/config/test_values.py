from __future__ import annotations

import pytest

from autocompress.config.plain import is_number, plain
from autocompress.config.values import parse_values, wrap
from autocompress.errors import ConfigError

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
