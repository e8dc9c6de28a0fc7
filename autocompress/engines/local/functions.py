"""The user's functions, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autocompress.errors import ConfigError
from autocompress.evaluation import Evaluation, read_evaluation


@dataclass(frozen=True)
class UserFunctions:
    """The functions given to `run`.

    Attributes:
        train_epoch: `train_epoch_fn(compression_ctrl, model, epoch=, optimizer=, lr_scheduler=)` trains one epoch; a
            number that it returns is the loss.
        validate: `validate_fn(model, epoch=)` returns the accuracy, or one value for each sample.
        configure_optimizers: `configure_optimizers_fn()` returns an optimizer and a learning-rate scheduler or None.
        dump_checkpoint: `dump_checkpoint_fn(model, compression_ctrl, runner, save_dir)` saves a checkpoint, and may
            return its path.
        load_checkpoint: `load_checkpoint_fn(model, checkpoint)` loads it.
        early_stopping: `early_stopping_fn(accuracy)` returns whether to end the trial.
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

    @cached_property
    def _taken(self) -> tuple[Collection[str] | None, Collection[str] | None]:
        """The optional arguments that training and validation take."""
        return _names(self.train_epoch), _names(self.validate)

    def train(self, controller: Any, model: Any, **optional: Any) -> Any:
        """Call `train_epoch_fn` with those of the optional arguments that it takes; what it returns."""
        return self.train_epoch(controller, model, **_among(optional, self._taken[0]))

    def evaluate(self, model: Any, epoch: int) -> Evaluation:
        """What `validate_fn` returns: the accuracy, or one value for each sample.

        Raises:
            ModuleError: it is neither a finite number nor one for each sample.
        """
        return read_evaluation(self.validate(model, **_among({"epoch": epoch}, self._taken[1])), "validate_fn")


def _among(optional: Mapping[str, Any], names: Collection[str] | None) -> dict[str, Any]:
    return {name: value for name, value in optional.items() if names is None or name in names}


def _names(function: Callable[..., Any]) -> Collection[str] | None:
    """Names of the arguments that a function takes; None: any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a function of C
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY]
