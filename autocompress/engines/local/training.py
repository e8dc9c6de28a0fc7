"""Training with the user's functions, and saving what they trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from autocompress.compression.measure import ReferenceModel, measure
from autocompress.compression.model_state import copy_model
from autocompress.engines.local.functions import UserFunctions
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation, as_number
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import load_verified
from autocompress.formats.files import WEIGHTS
from autocompress.nncf.compressed_model import ModelSnapshot
from autocompress.nncf.controller import CompressionController
from autocompress.records import TrialRecord
from autocompress.store import TrialDirectory

_RATES_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr")


@dataclass
class FunctionTraining:
    """Implements `autocompress.trial.fine_tuning.Training` with the user's functions.

    Attributes:
        functions: the user's.
        controller: passed to them.
        model: passed to them: the controller's model, or its wrapper.
        lr_factor: factor on the learning rates.
        higher_is_better: direction of the accuracy.
        epochs_before: epochs of all earlier trials, which the user's functions count too.
        accuracy_of: called with each validation.
        agree: makes a number equal on all processes that train together.
    """

    functions: UserFunctions
    controller: CompressionController
    model: Any
    lr_factor: float
    higher_is_better: bool
    epochs_before: int
    accuracy_of: Callable[[Evaluation], float] = attrgetter("accuracy")
    agree: Callable[[float], float] = float
    _accuracy: float = float("nan")
    _optimizer: Any = None
    _scheduler: Any = None

    def begin(self, model: nn.Module, epochs: int) -> Callable[[int], None]:  # noqa: ARG002 - the functions know theirs
        """Make the optimizer and the scheduler.

        Raises:
            ModuleError: `configure_optimizers_fn` returns no pair.
        """
        if self.functions.configure_optimizers is not None:
            self._optimizer, self._scheduler = configured(self.functions.configure_optimizers(), self.lr_factor)
        return self._train

    def evaluate(self, model: nn.Module, epoch: int) -> float:  # noqa: ARG002
        """The accuracy of the user's validation."""
        evaluation = self.functions.evaluate(self.model, self.epochs_before + epoch)
        self._accuracy = self.agree(self.accuracy_of(evaluation))
        return self._accuracy

    def average(self, model: nn.Module) -> bool:  # noqa: ARG002
        """Weights are as the user's functions leave them."""
        return False

    def evaluation_counts(self) -> bool:
        """Whether the schedule has ended."""
        return self.controller.scheduler.is_finished()

    def should_stop(self, accuracy: float) -> bool:
        """Whether the user's early stopping ends the trial."""
        stop = self.functions.early_stopping
        return stop is not None and bool(self.agree(float(bool(stop(accuracy)))))

    def _train(self, epoch: int) -> None:
        count = self.epochs_before + epoch
        answer = self.functions.train(
            self.controller,
            self.model,
            epoch=count,
            optimizer=self._optimizer,
            lr_scheduler=self._scheduler,
        )
        self._update(epoch, as_number(answer))

    def _update(self, epoch: int, loss: float | None) -> None:
        if self.functions.update_learning_rate is not None:
            self.functions.update_learning_rate(self._scheduler, epoch, self._accuracy, loss)
        elif isinstance(self._scheduler, ReduceLROnPlateau):
            value = loss if self._scheduler.mode == "min" else self._accuracy
            if value is None:
                raise ModuleError("ReduceLROnPlateau in mode 'min' needs the loss: train_epoch_fn must return it")
            self._scheduler.step(value)
        elif self._scheduler is not None:
            self._scheduler.step()


def configured(answer: Any, lr_factor: float = 1.0) -> tuple[Any, Any]:
    """The optimizer and the scheduler, or None, that `configure_optimizers_fn` returned.

    Args:
        answer: what it returned.
        lr_factor: on the learning rates.

    Raises:
        ModuleError: it is no pair.
    """
    pair = tuple(answer) if isinstance(answer, tuple | list) else (answer, None)
    if len(pair) != 2 or not hasattr(pair[0], "param_groups"):
        raise ModuleError(f"configure_optimizers_fn must return an optimizer and a scheduler or None; got {answer!r}")
    optimizer, scheduler = pair
    for group in optimizer.param_groups:
        group.update({name: group[name] * lr_factor for name in _RATES_OF_GROUPS if name in group})
    if hasattr(scheduler, "base_lrs"):
        scheduler.base_lrs = [rate * lr_factor for rate in scheduler.base_lrs]
    return optimizer, scheduler


@dataclass(frozen=True)
class TrainedTrial:
    """A trial to be saved. Implements `recorder.Outcome`.

    Attributes:
        record: the fields that the search needs.
        directory: of the trial.
        uncompressed: the uncompressed model.
        snapshot: the trial's model; None: it failed.
    """

    record: TrialRecord
    directory: TrialDirectory
    uncompressed: ReferenceModel
    snapshot: ModelSnapshot | None

    def save_model(self) -> None:
        """Write the checkpoint."""
        if self.snapshot is not None:
            save_checkpoint(self.snapshot.finished, self.directory.checkpoint, original=self.uncompressed.original)

    def save_rest(self) -> TrialRecord:
        """Write the model that trials start from and the record, with what the checkpoint measures."""
        whole = self.record
        if self.snapshot is not None:
            if self.snapshot.start is not self.snapshot.finished:
                save_checkpoint(self.snapshot.start, self.directory.pruned, original=self.uncompressed.original)
            whole = dataclasses.replace(whole, **self._measured(self.snapshot))
        self.directory.write_record(whole)
        return whole

    def _measured(self, snapshot: ModelSnapshot) -> dict[str, Any]:
        """Sizes of the model that the file gives back."""
        path, inputs = self.directory.checkpoint, self.uncompressed.inputs
        # Running a model switches its mode for a moment, and another thread may be copying this one.
        loaded = load_verified(path, copy_model(snapshot.finished), self.uncompressed.original, inputs)
        snapshot.require(loaded, path)
        size = (path / WEIGHTS).stat().st_size
        after = dataclasses.replace(measure(loaded, inputs), bytes=size)
        return {**self.uncompressed.size.removed_in(after), "bytes": size}
