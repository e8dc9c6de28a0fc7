"""The controller and the scheduler that the user's training calls, by NNCF's names, and their statistics."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.compression.measure import ReferenceModel, RemovedShares, measure
from autocompress.compression.model_state import device_of
from autocompress.errors import ConfigError
from autocompress.formats.export import ExportReport, export
from autocompress.formats.structure import structure_of
from autocompress.nncf.algorithms import LevelPart
from autocompress.nncf.compressed_model import CompressedModel
from autocompress.nncf.rb_sparsity import LearnedPart
from autocompress.records import Measurement
from autocompress.trial.distillation import DistillationHook


class CompressionStage(Enum):
    """NNCF's three stages of a model under compression."""

    UNCOMPRESSED = 0
    PARTIALLY_COMPRESSED = 1
    FULLY_COMPRESSED = 2


def stage_of_level(level: float, target: float) -> CompressionStage:
    """Of an algorithm whose level goes up to a target."""
    if level <= 0:
        return CompressionStage.UNCOMPRESSED
    full = level >= target - 1e-9
    return CompressionStage.FULLY_COMPRESSED if full else CompressionStage.PARTIALLY_COMPRESSED


def combined(stages: Iterable[CompressionStage]) -> CompressionStage:
    """Of several algorithms together: the one that all are in, else partly compressed."""
    found = set(stages)
    if len(found) > 1:
        return CompressionStage.PARTIALLY_COMPRESSED
    return found.pop() if found else CompressionStage.FULLY_COMPRESSED


@dataclass(frozen=True)
class CompressionStatistics(RemovedShares):
    """A model under compression beside the uncompressed one.

    Attributes:
        algorithms: their names.
        stage: how far it has come.
        requested_rate: the level in force in [0, 1); None where no algorithm has one.
        achieved_rate: what is achieved, measured: of filters removed, of weights zeroed, or of bits saved.
        before: size of the uncompressed model.
        after: size of the compressed model when stripped.
        left_alone: layer -> a sentence why it keeps its filters, although an algorithm selects it.
    """

    algorithms: tuple[str, ...]
    stage: CompressionStage
    requested_rate: float | None
    achieved_rate: float
    before: Measurement
    after: Measurement
    left_alone: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {
            **plain,
            "algorithms": list(self.algorithms),
            "stage": self.stage.name,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "parameters_removed": self.parameters_removed,
            "macs_removed": self.macs_removed,
        }

    def to_str(self) -> str:
        """A few lines of text."""
        rate = "" if self.requested_rate is None else f", requested {self.requested_rate:g}"
        achieved = f", achieved {self.achieved_rate:.4g}"
        before, after = self.before, self.after
        return "\n".join(
            [
                f"{' + '.join(self.algorithms)}: {self.stage.name}{rate}{achieved}",
                f"parameters           {before.parameters:,} -> {after.parameters:,} "
                f"({after.nonzero_parameters:,} not zero, {self.parameters_removed:.1%} removed)",
                f"multiply-accumulates {before.macs:,} -> {after.macs:,} ({self.macs_removed:.1%} removed)",
                f"bytes                {before.bytes:,} -> {after.bytes:,}",
                *(f"left alone           {why}" for why in dict.fromkeys(self.left_alone.values())),
            ]
        )

    def __str__(self) -> str:
        return self.to_str()


class CompressionScheduler:
    """Moves the level of each algorithm along its schedule.

    Attributes:
        current_epoch: index of the epoch that is being trained, from 0; -1 before the first.
        current_step: index of the iteration, from 0; -1 before the first.
        enabled: whether it still moves levels; not once a rate was set.
    """

    def __init__(self, parts: Sequence[LevelPart], apply: Callable[[Mapping[str, float]], None]) -> None:
        self._parts, self._apply = list(parts), apply
        self.current_epoch = self.current_step = -1
        self.enabled = True
        self._raised = {part.name: 0 for part in self._parts}

    def begin(self) -> None:
        """Put the levels of before the first epoch in force."""
        levels = {part.name: part.schedule.initial for part in self._parts}
        if any(levels.values()):
            self._apply(levels)

    def step(self, next_step: int | None = None) -> None:
        """Call before each iteration.

        Args:
            next_step: its index; one more than the last by default.
        """
        self.current_step = self.current_step + 1 if next_step is None else next_step

    def epoch_step(self, next_epoch: int | None = None) -> None:
        """Call before each epoch: its level is in force from now on.

        Args:
            next_epoch: its index; one more than the last by default.
        """
        self.current_epoch = self.current_epoch + 1 if next_epoch is None else next_epoch
        if self.enabled:
            self._apply({part.name: self._level(part) for part in self._parts})
            for part in self._parts:
                if part.schedule.freezes is not None and self.current_epoch >= part.schedule.freezes:
                    part.freeze()

    def levels_after(self, epochs: int) -> dict[str, float]:
        """The levels in force when so many epochs have been trained, where they follow from that alone."""
        return {
            part.name: part.schedule.level(epochs - 1) if epochs > 0 and not part.schedule.adaptive else part.level
            for part in self._parts
        }

    def is_finished(self) -> bool:
        """Whether all levels are at their targets, or were set."""
        return not self.enabled or all(part.level >= part.schedule.target - 1e-9 for part in self._parts)

    def get_state(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "current_epoch": self.current_epoch,
            "current_step": self.current_step,
            "enabled": self.enabled,
            "raised": dict(self._raised),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `get_state`."""
        self.current_epoch, self.current_step = int(state["current_epoch"]), int(state["current_step"])
        self.enabled, self._raised = bool(state["enabled"]), dict(state["raised"])

    def _level(self, part: LevelPart) -> float:
        if not part.schedule.adaptive:
            return part.schedule.level(self.current_epoch)
        if self.current_epoch > 0 and part.reached() and part.level < part.schedule.target:
            self._raised[part.name] += 1
        return part.schedule.level(self._raised[part.name])


STATE_VERSION = 1
_DIGITS = 9


class CompressionController:
    """Compresses a model that the user trains. Made by `create_compressed_model`.

    While a schedule moves the level, weights and filters are masked, and may come back; `strip` removes the filters.

    Attributes:
        compressed: the model with the algorithms on it; for training loops.
        scheduler: its steps are called before epochs and iterations.
        names: of all algorithms.
    """

    def __init__(self, compressed: CompressedModel, lesson: DistillationHook | None, names: tuple[str, ...]) -> None:
        self.compressed, self._lesson, self.names = compressed, lesson, names
        self.scheduler = CompressionScheduler(compressed.parts, compressed.set_levels)

    @property
    def model(self) -> nn.Module:
        """The model, which stays this object."""
        return self.compressed.model

    @property
    def uncompressed(self) -> ReferenceModel:
        """The uncompressed model."""
        return self.compressed.reference

    # For training

    def loss(self) -> torch.Tensor:
        """The compression loss of the latest forward pass, to be added to the training loss; 0 where there is none.

        It is that of knowledge distillation and of `rb_sparsity`, a tensor of no dimensions.
        """
        live = () if self.compressed.finished else self.compressed.parts
        terms = [term for part in live if (term := part.loss()) is not None]
        if self._lesson is not None and (distance := self._lesson.distance()) is not None:
            terms.append(distance)
        return torch.stack(terms).sum() if terms else torch.zeros((), device=device_of(self.model))

    def distributed(self) -> None:
        """Call after the model was wrapped for training on several devices.

        Does nothing: DistributedDataParallel keeps masks and ranges equal, as they are buffers. It is here for code
        that was written for NNCF.
        """

    # Progress

    @property
    def level(self) -> float | None:
        """The requested level in force, in [0, 1), to nine digits as the search has it; None where there is none."""
        part = self.compressed.rated
        return None if part is None else round(part.level, _DIGITS)

    @checked_arguments
    def level_after(self, epochs: int) -> float:
        """The level that the schedule has in force when so many epochs have been trained."""
        part = self.compressed.rated
        return 0.0 if part is None else round(self.scheduler.levels_after(epochs)[part.name], _DIGITS)

    @property
    def quantizes(self) -> bool:
        """Whether weights or activations are rounded."""
        return self.compressed.quantization is not None

    @property
    def compression_rate(self) -> float:
        """The level in force, in [0, 1): of filters, weights, or, with quantization alone, of bits saved.

        Setting it takes effect at once and ends the schedule.
        """
        part = self.compressed.rated
        if isinstance(part, LearnedPart) and not self.compressed.finished:
            return part.sparsity()
        return part.level if part is not None else self.compressed.bits_saved()

    @compression_rate.setter
    @checked_arguments
    def compression_rate(self, compression_rate: float) -> None:
        part = self.compressed.rated
        if part is None:
            listed = ", ".join(self.names)
            raise ConfigError(f"a compression rate needs pruning or sparsity; the algorithms are {listed}")
        if not 0 <= compression_rate < 1:
            raise ConfigError(f"a compression rate must be in [0, 1); got {compression_rate!r}")
        self.compressed.set_levels({part.name: compression_rate})
        self.disable_scheduler()

    def disable_scheduler(self) -> None:
        """Leave the levels as they are, whatever `scheduler.epoch_step` receives."""
        self.scheduler.enabled = False

    def compression_stage(self) -> CompressionStage:
        """How far compression has come."""
        ended = not self.scheduler.enabled
        parts = self.compressed.parts
        stages = [stage_of_level(part.level, part.level if ended else part.schedule.target) for part in parts]
        return combined([*stages, *([CompressionStage.FULLY_COMPRESSED] if self.quantizes else [])])

    @property
    def left_alone(self) -> dict[str, str]:
        """Layer -> a sentence why it keeps its filters, although an algorithm selects it: at the rates so far."""
        return self.compressed.left_alone

    def statistics(self) -> CompressionStatistics:
        """What has been achieved, measured on a stripped copy of the model."""
        stripped = self.strip()
        return CompressionStatistics(
            algorithms=self.names,
            stage=self.compression_stage(),
            requested_rate=self.level,
            achieved_rate=self.compressed.achieved_rate(stripped),
            before=self.uncompressed.size,
            after=measure(stripped, self.uncompressed.inputs),
            left_alone=self.left_alone,
        )

    # The compressed model

    @checked_arguments
    def strip(self, do_copy: bool = True) -> nn.Module:
        """A plain model: filters physically removed, zeros and rounded values written.

        Args:
            do_copy: return a copy; else the model itself becomes plain, and is no longer held at its rate.

        Raises:
            CompressionError: it fails without its filters.
        """
        stripped = self.compressed.stripped()
        if do_copy:
            return stripped
        self.settle(stripped)
        return self.model

    def export_model(self, path: str | os.PathLike[str]) -> ExportReport:
        """Write the stripped model; the suffix names the format: `.onnx`, `.pt2`, `.dot`.

        What was written is run and compared with the model.

        Raises:
            ConfigError: an unknown suffix, or the packages that a format needs are missing.
            CompressionError: the model cannot be exported, or what was written computes something else.
            StoreError: the files cannot be written.
        """
        return export(self.strip(), path, self.uncompressed.inputs, original=self.uncompressed.original)

    def get_compression_state(self) -> dict[str, Any]:
        """The state, as JSON, that `create_compressed_model` needs beside the state dict to continue from here."""
        return {
            "schema_version": STATE_VERSION,
            **self.compressed.get_state(),
            "scheduler": self.scheduler.get_state(),
            "structure": structure_of(self.compressed.plain(), self.uncompressed.original),
        }

    def load_compression_state(self, state: Mapping[str, Any]) -> None:
        """Restore the state of `get_compression_state` on a model of that structure."""
        if not state["finished"]:
            self.compressed.attach(with_data=False)
        self.scheduler.load_state(state["scheduler"])
        self.compressed.load_state(state)

    # For training loops

    def start_from(
        self, model: nn.Module | None, rate: float | None, *, removed: bool, evaluated: bool = False
    ) -> None:
        """End the schedule, and compress other weights as `CompressedModel.start_from` does."""
        self.disable_scheduler()
        self.compressed.start_from(model, rate, removed=removed, evaluated=evaluated)

    def settle(self, finished: nn.Module, rate: float | None = None) -> None:
        """End the schedule, and let the model become a finished one."""
        self.disable_scheduler()
        self.compressed.settle(finished, rate)
