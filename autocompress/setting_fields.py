"""Types of settings and configurations, and pydantic's errors in words.

The description of each type is the rule that an error states.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
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

Rate = Annotated[float, Field(ge=0, lt=1, description="a number in [0, 1)")]
OptionalRate = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | None,
    Field(description="a number in [0, 1), or null"),
]
Factor = Annotated[float, Field(gt=0, lt=1, description="a number in (0, 1)")]
LrFactor = Annotated[float, Field(gt=0, le=1, description="a number in (0, 1]")]
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


def _found(kind: type[Section], names: Sequence[str]) -> tuple[type[BaseModel], FieldInfo | None]:
    """The section of the last name, and its field there, if it has one."""
    home: type[BaseModel] = kind
    field = None
    for name in names:
        field = home.model_fields.get(name)
        inner = field and _section(field.annotation)
        if inner and name != names[-1]:
            home = inner
    return home, field


def _section(annotation: Any) -> type[BaseModel] | None:
    for each in (annotation, *typing.get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _path(where: str, parts: Sequence[str | int]) -> str:
    path = where
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path
