"""Deep copies of what users hand in, made of JSON's types only."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError
from autocompress.plain_json import MAXIMAL_DEPTH, dumps, is_number, parse, plain, require_plain

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_what_is_written_is_read(value):
    assert parse(dumps(value)) == value
    assert parse(dumps(value, indent=2).encode()) == value


hostile = st.sampled_from(
    ["1e999", f"1{'0' * 400}.5", "-1E+0400", "9" * 20, '"\\u0000"', '"x\\uD800"', '"\U0001f600"', '"4e123"', "[[]]"]
)
pieces = st.lists(hostile | values.map(json.dumps), max_size=4).map(lambda members: f"[{', '.join(members)}]")


@given(pieces.flatmap(lambda text: st.integers(0, 70).map(lambda depth: "[" * depth + text + "]" * depth)))
def test_nothing_that_breaks_a_rule_is_passed_over(text):
    """Whether a text is looked through is guessed from its characters."""
    try:
        require_plain(json.loads(text))
    except ValueError as error:
        with pytest.raises(ValueError, match=re.escape(str(error))):
            parse(text.encode())
    else:
        assert parse(text.encode()) == json.loads(text)


def nested(depth):
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("NaN", "a number must be finite; got NaN"),
        ('{"a": [-Infinity]}', "a number must be finite; got -Infinity"),
        ("[1e999]", "a number must be finite; got one that overflows"),
        (str(2**63), "a whole number must be below 2\\*\\*63; got one of 64 bits"),
        (str(-(2**63)), "a whole number must be below"),
        ("9" * 5000, "4300 digits"),
        (nested(MAXIMAL_DEPTH + 1), "must be nested at most 64 deep"),
        (nested(1_000_000), "must be nested at most 64 deep"),
        ('{"a":' * 1000, "must be nested at most 64 deep|Expecting"),
        ('"\\u0000"', "a string must not have NUL or half a surrogate pair in it; got '\\\\x00'"),
        ('{"a\\ud800": 1}', "half a surrogate pair"),
        ('["\\udc80\\ud800"]', "half a surrogate pair"),
        (b'"\xed\xa0\x80"', "utf-8"),
        (b'"\xff"', "utf-8"),
        ('"\0"', "control character"),
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[1,]", "Expecting value"),
    ],
)
def test_what_is_refused(text, rule):
    with pytest.raises(ValueError, match=rule):
        parse(text)


def test_what_is_not():
    assert parse(nested(MAXIMAL_DEPTH)) is not None
    assert parse('"\\ud83d\\ude00 \U0001f600"') == "\U0001f600 \U0001f600"
    assert parse('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="an object must have each key once; got 'a' twice"):
        parse('{"a": 1, "a": 2}', unique_keys=True)


def test_texts_that_no_reader_takes_are_made_readable():
    """What a user's error says must not make an experiment unreadable."""
    assert parse(dumps({"error\0": ["\ud800x", "ok"]})) == {"error\ufffd": ["\ufffdx", "ok"]}


def test_what_is_written_has_numbers_only():
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps({"accuracy": float("nan")})


def test_a_value_that_holds_itself():
    value = []
    value.append(value)
    with pytest.raises(ValueError, match="nested at most"):
        require_plain(value)


def test_wide_values_are_quick():
    text = json.dumps(list(range(200_000)))
    assert len(parse(text)) == 200_000


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
