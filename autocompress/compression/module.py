"""The interface that users implement: NNI 2.10's auto-compress module, with a few more hooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from autocompress.errors import ModuleError

Evaluator = Callable[[nn.Module], float]
Criterion = Callable[..., Any]
Trainer = Callable[[nn.Module, Optimizer, Criterion, int], None]
"""`trainer(model, optimizer, criterion, current_epoch)` trains one epoch."""


class AbstractAutoCompressionModule(ABC):
    """A trained model, how to evaluate it, and how to train it.

    Only `model` and `evaluator` are required. All hooks are classmethods and are called in the trial's process too.

    Attributes:
        higher_is_better: direction of what the evaluator returns.
    """

    higher_is_better: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def model(cls) -> nn.Module:
        """The pre-trained, uncompressed model. It may be one global object: it is copied, never changed."""

    @classmethod
    @abstractmethod
    def evaluator(cls) -> Evaluator:
        """A function that returns the accuracy of a model on validation data, a finite number in any unit."""

    @classmethod
    def optimizer_factory(cls) -> Callable[[Iterable[Any]], Optimizer] | None:
        """A function that makes an optimizer from `model.parameters()`; required for any training."""
        return None

    @classmethod
    def criterion(cls) -> Criterion | None:
        """The loss function that is passed to the trainers; required for any training."""
        return None

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name: str) -> Trainer | None:  # noqa: ARG003
        """A function that trains one epoch while an algorithm compresses."""
        return None

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name: str) -> Trainer | None:  # noqa: ARG003
        """A function that trains one epoch after compression; None: the compressed model is not fine-tuned."""
        return None

    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name: str) -> int | None:  # noqa: ARG003
        """Epochs of fine-tuning after compression under stock tuners; None: the search's `patience_epochs`."""
        return None

    @classmethod
    def example_inputs(cls) -> Any | None:
        """A tensor, or a tuple of the positional arguments, of one forward pass; None: taken from the evaluator."""
        return None

    @classmethod
    def calibration_data(cls) -> Iterable[Any] | None:
        """Batches of training inputs, without labels; a batch is a tensor or a sequence whose first item is one.

        A model with several inputs takes a sequence of them, or one whose first item is such a sequence:
        `(left, right)`, `((left, right), target)`.
        """
        return None

    @classmethod
    def holdout_evaluator(cls) -> Evaluator | None:
        """An evaluator on data that the search does not use; reported with the accuracy of the result."""
        return None

    @classmethod
    def lr_scheduler_factory(cls) -> Callable[[Optimizer], LRScheduler] | None:
        """A function that makes a learning-rate scheduler from the optimizer; stepped after each epoch."""
        return None


ModuleClass = type[AbstractAutoCompressionModule]


def require_module_class(module: object) -> None:
    """Check that an object is a subclass of `AbstractAutoCompressionModule`.

    Raises:
        ModuleError: it is not.
    """
    if not isinstance(module, type):
        raise ModuleError(f"a compression module must be a class; got {module!r}")
    if not issubclass(module, AbstractAutoCompressionModule):
        raise ModuleError(
            f"a compression module must inherit AbstractAutoCompressionModule; {module.__name__} does not"
        )
