"""Descriptions of settings, read from their classes. What the fields allow is tested with the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from autocompress.setting_fields import Count, Rate, Section, SettingDescription, descriptions
from autocompress.settings import AccuracyAwareSettings


class Inner(Section):
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


class Outer(Base):
    """All of them.

    Attributes:
        rate: a line that is
            too long: it goes on.
        inner: an object; None: there is none.

    Raises:
        ConfigError: never.
    """

    rate: Rate = 0.5
    inner: Annotated[Inner | None, Field(description="an object or null")] = None


def test_all_of_a_class_and_its_bases_in_order_with_the_keys_of_objects():
    assert list(descriptions(Outer)) == [
        SettingDescription("epochs", "a whole number >= 0", 3, "how many."),
        SettingDescription("rate", "a number in [0, 1)", 0.5, "a line that is too long: it goes on."),
        SettingDescription("inner", "an object or null", None, "an object; None: there is none."),
        SettingDescription("inner.kind", "a text", ..., "what it is."),
    ]


def test_every_setting_is_described():
    for each in descriptions(AccuracyAwareSettings):
        assert each.help.endswith("."), each
        assert each.rule != "an object", each
