"""Types of settings and configurations, and pydantic's errors in words.

The description of each type is the rule that an error states.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.fields import FieldInfo

from autocompress.errors import ConfigError, unknown_name


class Section(BaseModel):
    """A JSON object of a configuration, without unknown keys or conversions."""

    noun: ClassVar[str] = "key"  # what its keys are called in messages
    whole: ClassVar[str] = "the configuration"  # what it is called where it is no part of another one; empty: nothing

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Scopes = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: tuple(listed) if isinstance(listed := _listed(value), list) else listed),
    Field(description="a name, {re} and a regular expression, or a list of them"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""A list of JSON becomes a tuple, which settings that never change hold."""


def _factors(value: Any) -> tuple[float, ...]:
    listed = tuple(value) if isinstance(value, list | tuple) else ()
    numbers = [
        each for each in listed if isinstance(each, float | int) and not isinstance(each, bool) and 0 < each <= 1
    ]
    if not listed or len(set(numbers)) < len(listed):
        raise ValueError("no list of different factors")
    return tuple(map(float, listed))


Rate = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
OptionalRate = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | None,
    Field(description="a number in [0, 1), or null"),
]
Factor = Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
Confidence = Annotated[float, Field(ge=0.5, lt=1, description="a number in [0.5, 1)")]
LrFactor = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
LearningRateFactors = Annotated[
    tuple[float, ...],
    BeforeValidator(_factors),
    Field(description="a list of different numbers in (0, 1], at least one"),
]
Positive = Annotated[float, Field(gt=0, description="a finite number > 0")]
Degradation = Annotated[
    Annotated[float, Field(ge=0)] | None,
    Field(description="a finite number >= 0, or null"),
]
Count = Annotated[int, Field(ge=0, description="a whole number >= 0")]
PositiveCount = Annotated[int, Field(ge=1, description="a whole number >= 1")]
Flag = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="a string")]


Seconds = Annotated[
    Annotated[float, Field(gt=0)] | None,
    Field(description="a finite number > 0, or null"),
]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="a whole number in [0, 2**32)")]


@dataclass(frozen=True)
class SettingDescription:
    """A setting, described for its users.

    Attributes:
        name: as users write it; of a key of an object `setting.key`.
        rule: what it must be, in words.
        default: its value where it is not given; `...`: it must be given with the object.
        help: what it does.
    """

    name: str
    rule: str
    default: Any
    help: str


def descriptions(kind: type[Section], path: str = "") -> Iterator[SettingDescription]:
    """All settings of a class, those of inner objects behind theirs.

    Args:
        kind: whose `Attributes` say what each does.
        path: what the names begin with.
    """
    helps = _attribute_docs(kind)
    for name, field in kind.model_fields.items():
        default = ... if field.is_required() else field.default
        yield SettingDescription(path + name, field.description or "an object", default, helps.get(name, ""))
        if (inner := _section(field.annotation)) is not None:
            yield from descriptions(inner, f"{path}{name}.")


def _attribute_docs(kind: type[Section]) -> dict[str, str]:
    """What the docstrings of a class and of those that it is derived from say about attributes, by name."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        section = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
        section = section.partition("\n\n")[0]
        found |= {
            name: " ".join(text.split()) for name, text in re.findall(r"^    (\w+): ((?:.|\n      )+)", section, re.M)
        }
    return found


_ATTRIBUTE = re.compile(r"^    (\w+): ((?:.|\n      )+)", re.MULTILINE)

_Read = TypeVar("_Read", bound=Section)


def read(kind: type[_Read], data: Any, where: str) -> _Read:
    """Parse the section at the path `where` of a configuration; empty for the whole.

    Raises:
        ConfigError: every broken rule: path, what is allowed, value.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be an object; got {data!r}")
    try:
        return kind.model_validate(dict(data), context={"where": where})
    except ValidationError as error:
        raise ConfigError(broken_rules(kind, error, where)) from error


def broken_rules(kind: type[Section], error: ValidationError, where: str = "") -> str:
    """All rules that a section breaks, from pydantic's error: the key's path, what is allowed, the value."""
    return "; ".join(dict.fromkeys(_broken(kind, dict(detail), where) for detail in error.errors(include_url=False)))


def _broken(kind: type[Section], detail: dict[str, Any], where: str) -> str:
    names = [part for part in detail["loc"] if isinstance(part, str)]
    home, field = _found(kind, names)
    path = _path(where, detail["loc"])
    if detail["type"] == "extra_forbidden":
        inside = _path(where, detail["loc"][:-1])
        unknown = unknown_name("key" if where else kind.noun, names[-1], home.model_fields)
        return f"{inside or kind.whole}: {unknown}" if inside or kind.whole else unknown
    rule = field.description if field is not None and field.description else "an object"
    if detail["type"] == "missing":
        return f"{path} must be given: {rule}"
    return f"{path or 'settings'} must be {rule}; got {detail['input']!r}"


def _found(kind: type[Section], names: Sequence[str]) -> tuple[type[Section], FieldInfo | None]:
    """The section that the last name is in, and its field there, if it has one."""
    home: type[Section] = kind
    field = None
    for name in names:
        field = home.model_fields.get(name)
        inner = field and _section(field.annotation)
        if inner and name != names[-1]:
            home = inner
    return home, field


def _section(annotation: Any) -> type[Section] | None:
    for each in (annotation, *typing.get_args(annotation)):
        if isinstance(each, type) and issubclass(each, Section):
            return each
    return None


def _path(where: str, parts: Sequence[str | int]) -> str:
    path = where
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
