"""Kinds of values. Each description is the rule that an error states."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema


class Section(BaseModel):
    """A JSON object of a configuration: nothing unknown in it, nothing converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _sized(value: Any) -> Any:
    """JSON's whole numbers are numbers too; true and false are none."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


Scopes = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: tuple(listed) if isinstance(listed := _listed(value), list) else listed),
    Field(description="a name, {re} and a regular expression, or a list of them"),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
FROM_LIST = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
"""A list of JSON becomes a tuple, which settings that never change hold."""

Rate = Annotated[float, BeforeValidator(_sized), Field(ge=0, lt=1, description="a number in [0, 1)")]
OptionalRate = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | None,
    BeforeValidator(_sized),
    Field(description="a number in [0, 1), or null"),
]
Factor = Annotated[float, BeforeValidator(_sized), Field(gt=0, lt=1, description="a number in (0, 1)")]
LrFactor = Annotated[float, BeforeValidator(_sized), Field(gt=0, le=1, description="a number in (0, 1]")]
Positive = Annotated[float, BeforeValidator(_sized), Field(gt=0, description="a finite number > 0")]
Degradation = Annotated[
    Annotated[float, Field(ge=0)] | None,
    BeforeValidator(_sized),
    Field(description="a finite number >= 0, or null"),
]
Count = Annotated[int, Field(ge=0, description="a whole number >= 0")]
PositiveCount = Annotated[int, Field(ge=1, description="a whole number >= 1")]
Flag = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="a text")]
