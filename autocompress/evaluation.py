"""What evaluators return: the accuracy, or one value for each sample, whose mean is the accuracy."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autocompress.errors import ModuleError, short


class PerSample(Protocol):
    """A 1-D tensor or array."""

    @property
    def shape(self) -> Any:
        """Its sizes: the number of samples alone."""
        ...

    def tolist(self) -> Any:
        """The values as Python's numbers."""
        ...


EvaluatorAnswer = float | Sequence[float] | PerSample
"""The accuracy; or a 1-D tensor, array or list of one value for each sample, numbers or bools."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a model.

    Attributes:
        accuracy: in the evaluator's unit, a finite number.
        values: one for each sample, in the evaluator's order, whose mean is the accuracy; None where the evaluator
            returns the accuracy alone.
    """

    accuracy: float
    values: tuple[float, ...] | None = None


def read_evaluation(answer: Any, evaluator: str = "evaluator()") -> Evaluation:
    """What an evaluator returned, checked.

    Args:
        answer: a Python or numpy number, or a tensor of no dimensions; or a 1-D tensor, array or list of numbers or
            bools.
        evaluator: its name, for messages.

    Raises:
        ModuleError: it is something else, is empty, or is not finite.
    """
    number = as_number(answer)
    if number is not None and math.isfinite(number):
        return Evaluation(number)
    values = None if number is not None else _items(answer)
    wrong = _advice(answer) if values is None else _fault(values)
    if values is None or wrong:
        raise ModuleError(
            f"{evaluator} must return a finite number, or a 1-D tensor, array or list of one for each sample; got "
            f"{describe(answer)}{wrong}"
        )
    found = tuple(map(float, values))
    return Evaluation(math.fsum(found) / len(found), found)


def as_number(answer: Any) -> float | None:
    """A Python or numpy number, or a tensor of no dimensions, as a float; None for anything else."""
    number = answer.item() if hasattr(answer, "item") and getattr(answer, "shape", None) == () else answer
    return float(number) if _is_number(number) else None


def describe(value: Any) -> str:
    """A value and its type, for error messages."""
    return f"{short(value)} ({type(value).__name__})"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _items(answer: Any) -> list[Any] | None:
    """The items of a 1-D tensor or array, or of a list; None for anything else, such as a pair of loss and accuracy."""
    if isinstance(answer, list):
        return [each.item() if getattr(each, "shape", None) == () else each for each in answer]
    if hasattr(answer, "tolist") and len(getattr(answer, "shape", ())) == 1:
        return list(answer.tolist())
    return None


def _fault(values: list[Any]) -> str:
    """What is wrong with the values of the samples, as the end of a message; empty where nothing is."""
    if not values:
        return ": it holds no sample"
    for index, value in enumerate(values):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            return f": sample {index} has {describe(value)}"
    return ""


def _advice(answer: Any) -> str:
    shape = getattr(answer, "shape", ())
    if isinstance(shape, Sequence) and len(shape) > 1:
        return f" of shape {tuple(shape)}: return one value for each sample"
    if callable(answer):
        return ": evaluator() itself returns the function of the model"
    return ": does it lack its return statement?" if answer is None else ""
