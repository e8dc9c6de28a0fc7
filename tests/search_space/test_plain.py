"""Deep copies of what users hand in, made of JSON's types only."""

import math

import pytest

from autocompress.errors import ConfigError
from autocompress.search_space.plain import is_number, plain


def test_a_copy_shares_nothing_and_tuples_are_lists():
    given = {"a": [1, (2.5, None)], "b": {"c": True, "d": "text"}}
    copied = plain("key", given)
    assert copied == {"a": [1, [2.5, None]], "b": {"c": True, "d": "text"}}
    copied["b"]["c"] = copied["a"][0] = "changed"
    assert given == {"a": [1, (2.5, None)], "b": {"c": True, "d": "text"}}


@pytest.mark.parametrize("value", [math.nan, -math.inf, {1, 2}, b"bytes", object])
def test_what_json_cannot_hold_is_refused_with_its_place(value):
    with pytest.raises(ConfigError, match=r"space\.a\[1\] must be JSON: objects, .*; got "):
        plain("space", {"a": [0, value]})


def test_names_are_strings():
    with pytest.raises(ConfigError, match=r"the keys of space\.a must be strings; got 3"):
        plain("space", {"a": {3: 0}})


def test_what_is_nested_too_deep_is_refused():
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ConfigError, match="space must not be nested so deep"):
        plain("space", value)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, True), (0.5, True), (True, False), (math.nan, False), (10**400, False), ("1", False)]
)
def test_numbers(value, expected):
    assert is_number(value) is expected
