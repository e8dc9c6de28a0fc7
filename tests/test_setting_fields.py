"""Kinds of values of settings, and the sentences about those that break their rules."""

from typing import Annotated

import pytest
from pydantic import BaseModel, Field

from autocompress.errors import ConfigError
from autocompress.setting_fields import (
    Count,
    Degradation,
    Factor,
    OptionalRate,
    Rate,
    Scopes,
    Section,
    Seed,
    SettingDescription,
    Text,
    descriptions,
    read,
)
from autocompress.settings import AccuracyAwareSettings


class Inner(Section):
    rate: Rate = 0.5
    scopes: Scopes = ()


class Outer(Section):
    inner: Inner = Inner()
    epochs: Count
    name: Text = ""


class Kinds(Section):
    whole = ""
    seed: Seed = 0
    factor: Factor = 0.5
    target: OptionalRate = None
    degradation: Degradation = None


def refused(data, kind=Outer, where="training"):
    with pytest.raises(ConfigError) as error:
        read(kind, data, where)
    return str(error.value)


def test_what_keeps_the_rules_is_read():
    found = read(Outer, {"epochs": 3, "inner": {"rate": 0, "scopes": "conv1"}}, "")
    assert (found.epochs, found.inner.rate, found.inner.scopes, found.name) == (3, 0.0, ("conv1",), "")
    assert read(Inner, {"scopes": ["a", "{re}b.*"]}, "").scopes == ("a", "{re}b.*")
    assert issubclass(Outer, BaseModel)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"epochs": -1}, "training.epochs must be a whole number >= 0; got -1"),
        ({"epochs": "3"}, "training.epochs must be a whole number >= 0; got '3'"),
        ({"epochs": True}, "training.epochs must be a whole number >= 0; got True"),
        ({}, "training.epochs must be given: a whole number >= 0"),
        ({"epochs": 1, "inner": {"rate": 1.0}}, "training.inner.rate must be a number in [0, 1); got 1.0"),
        ({"epochs": 1, "inner": {"rate": float("nan")}}, "training.inner.rate must be a number in [0, 1); got nan"),
        ({"epochs": 1, "inner": 5}, "training.inner must be an object; got 5"),
        ({"epochs": 1, "epochss": 2}, "training: unknown key 'epochss'; did you mean 'epochs'"),
        ({"epochs": 1, "inner": {"rat": 2}}, "training.inner: unknown key 'rat'; did you mean 'rate'"),
        ([], "training must be an object; got []"),
    ],
)
def test_a_broken_rule_is_stated_with_its_path(data, message):
    assert refused(data).startswith(message)


def test_all_broken_rules_are_stated():
    message = refused({"epochs": -1, "name": 3}, where="")
    assert message == "epochs must be a whole number >= 0; got -1; name must be a string; got 3"


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("seed", 2**32, "a whole number in [0, 2**32)"),
        ("factor", 1.0, "a number in (0, 1)"),
        ("target", -0.1, "a number in [0, 1), or null"),
        ("degradation", -1, "a finite number >= 0, or null"),
        ("degradation", float("inf"), "a finite number >= 0, or null"),
    ],
)
def test_kinds(key, value, rule):
    assert refused({key: value}, Kinds, "") == f"{key} must be {rule}; got {value!r}"


class Item(Section):
    """An object.

    Attributes:
        kind: what it is.
    """

    kind: Annotated[str, Field(description="a text")]


class Base(Section):
    """What others have too.

    Attributes:
        epochs: how many.
    """

    epochs: Count = 3


class Described(Base):
    """All of them.

    Attributes:
        rate: a line that is
            too long: it goes on.
        inner: an object; None: there is none.

    Raises:
        ConfigError: never.
    """

    rate: Rate = 0.5
    inner: Annotated[Item | None, Field(description="an object or null")] = None


def test_all_of_a_class_and_its_bases_in_order_with_the_keys_of_objects():
    assert list(descriptions(Described)) == [
        SettingDescription("epochs", "a whole number >= 0", 3, "how many."),
        SettingDescription("rate", "a number in [0, 1)", 0.5, "a line that is too long: it goes on."),
        SettingDescription("inner", "an object or null", None, "an object; None: there is none."),
        SettingDescription("inner.kind", "a text", ..., "what it is."),
    ]


def test_every_setting_is_described():
    for each in descriptions(AccuracyAwareSettings):
        assert each.help.endswith("."), each
        assert each.rule != "an object", each
