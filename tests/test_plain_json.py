"""Deep copies of what users hand in, made of JSON's types only."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import ConfigError, StoreError
from autocompress.plain_json import (
    MAXIMAL_DEPTH,
    boolean,
    dumps,
    identifier,
    integer,
    is_number,
    listing,
    mapping,
    optional,
    parse,
    parsed,
    plain,
    record,
    require_plain,
    text,
    word,
)

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
        ("9" * 5000, "4300 digits|limit \\(4300\\)"),  # Python 3.10's words
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
        ("[1,]", "Expecting value|Illegal trailing comma"),  # of Python 3.13
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


POINT = record(x=integer(0, 9), name=optional(word("a", "b")))


def test_what_keeps_the_rules_comes_back():
    value = {"x": 3, "name": None}
    assert POINT(value, "p") == value
    assert listing(POINT, 2)([value], "p") == [value]
    assert mapping(identifier, boolean)({"yes": True}, "p") == {"yes": True}


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (POINT, {"x": 3}, r"p: name must be there"),
        (POINT, {"x": 3, "name": None, "y": 1}, r"p: unknown key 'y' \(known: name, x\)"),
        (POINT, {"x": 10, "name": None}, r"p\.x must be a whole number from 0 to 9; got 10"),
        (POINT, {"x": True, "name": None}, r"p\.x must be a whole number"),
        (POINT, {"x": 3.0, "name": None}, r"p\.x must be a whole number"),
        (POINT, {"x": 3, "name": "c"}, r"p\.name must be one of a, b; got 'c'"),
        (POINT, [], "p must be an object"),
        (listing(boolean, 1), [True, False], "p must be a list of at most 1 items"),
        (listing(boolean), [True, 1], r"p\[1\] must be true or false; got 1"),
        (identifier, "class", "p must be an identifier, not a keyword"),
        (identifier, "__class__", "p must be an identifier, not a keyword or a name of Python's own"),
        (identifier, "a b", "p must be an identifier"),
        (identifier, "\uff46", "p must be an identifier"),
        (identifier, "a\n", "p must be an identifier"),
        (text("[a-z]+", "small letters"), "a\n", "p must be small letters"),
        (text("[a-z]+", "small letters", 3), "aaaa", "p must be small letters"),
    ],
)
def test_what_does_not_is_refused(rule, value, message):
    with pytest.raises(StoreError, match=message):
        rule(value, "p")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1, "a": 2}', "each key once; got 'a' twice"),
        (b'{"a": NaN}', "must be finite; got NaN"),
        (b'{"a": -1e999}', "must be finite; got one that overflows"),
        (b"\xff", "decode"),
        (b"[" * 10**6, "."),
        (b"{", "."),
        (b" " * ((1 << 26) + 1), "at most 67,108,864 bytes"),
        (b"1" * 10_000, "."),
    ],
)
def test_json_with_liberties_is_refused(data, message):
    with pytest.raises(StoreError, match=message):
        parsed(data)


def test_an_error_shows_little_and_no_control_characters():
    with pytest.raises(StoreError) as caught:
        POINT({"x": "\x1b[2J" * 1000, "name": None}, "p")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_keys_on_the_way_are_shown_as_little():
    rule = mapping(text(".*", "anything", 10_000), mapping(identifier, boolean))
    for key in ("\u202e", "x" * 5000, "a\u2028b"):
        with pytest.raises(StoreError, match="must be true or false") as caught:
            rule({key: {"a": 1}}, "p")
        assert len(str(caught.value)) < 200
        assert str(caught.value).isprintable()
