"""The functions a user hands over, and how they are called."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autocompress.errors import ConfigError, ModuleError


@dataclass(frozen=True)
class UserFunctions:
    """What `run` was given.

    Attributes:
        train_epoch: `train_epoch_fn(compression_ctrl, model, epoch=, optimizer=, lr_scheduler=)` trains one epoch; a
            number that it returns is taken for the loss.
        validate: `validate_fn(model, epoch=)` returns the accuracy.
        configure_optimizers: `configure_optimizers_fn()` returns an optimizer and a learning-rate scheduler or None.
        dump_checkpoint: `dump_checkpoint_fn(model, compression_ctrl, runner, save_dir)` saves what the user wants, and
            may return where.
        load_checkpoint: `load_checkpoint_fn(model, checkpoint)` loads what was saved there.
        early_stopping: `early_stopping_fn(accuracy)` tells whether to leave the rate.
        update_learning_rate: `update_learning_rate_fn(lr_scheduler, epoch, accuracy, loss)`, instead of the scheduler's
            step after each epoch.
    """

    train_epoch: Callable[..., Any]
    validate: Callable[..., Any]
    configure_optimizers: Callable[[], Any] | None = None
    dump_checkpoint: Callable[..., Any] | None = None
    load_checkpoint: Callable[..., Any] | None = None
    early_stopping: Callable[[float], bool] | None = None
    update_learning_rate: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name, function in vars(self).items():
            needed = name in ("train_epoch", "validate")
            if not callable(function) and (needed or function is not None):
                raise ConfigError(f"{name}_fn must be a function; got {function!r}")

    def accuracy(self, model: Any, epoch: int) -> float:
        """What `validate_fn` returns.

        Raises:
            ModuleError: it is no finite number.
        """
        answer = call(self.validate, model, epoch=epoch)
        number = as_number(answer)
        if number is None or not math.isfinite(number):
            raise ModuleError(f"validate_fn must return a finite number; got {answer!r}")
        return number


def call(function: Callable[..., Any], *arguments: Any, **optional: Any) -> Any:
    """Call a function with those of the optional arguments that it takes."""
    return function(*arguments, **_taken(function, optional))


def as_number(answer: Any) -> float | None:
    """A Python or numpy number, or a tensor of no dimensions, as a float; None for anything else."""
    number = answer.item() if hasattr(answer, "item") and getattr(answer, "shape", None) == () else answer
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        return None
    return float(number)


def _taken(function: Callable[..., Any], optional: Mapping[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return dict(optional)
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return dict(optional)
    names = {parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY}
    return {name: value for name, value in optional.items() if name in names}
