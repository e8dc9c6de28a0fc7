"""The rules that everything read from a checkpoint goes through."""

from __future__ import annotations

import pytest

from autocompress.errors import StoreError
from autocompress.grammar import (
    boolean,
    identifier,
    integer,
    listing,
    mapping,
    optional,
    parsed,
    record,
    text,
    word,
)

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
