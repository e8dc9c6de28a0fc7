"""The controller that goes with a model under compression."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compress.base import CompressionRequest
from autocompress.compress.batchnorm import recalibrate
from autocompress.compress.folding import bare, fold
from autocompress.compress.measure import measure
from autocompress.compress.quantizing.activations import detach
from autocompress.compress.quantizing.fake_quantizers import FakeQuantizer, calibrate, unrounded
from autocompress.compress.shipping.export import ExportReport, export
from autocompress.compress.shipping.structure import structure_of
from autocompress.compress.state import device_of, output_shapes
from autocompress.controller.becoming import become
from autocompress.controller.learned import LearnedPart
from autocompress.controller.parts import LevelPart, PruningPart
from autocompress.controller.requests import first_samples
from autocompress.controller.scheduler import CompressionScheduler
from autocompress.controller.stages import CompressionStage, combined, stage_of_level
from autocompress.controller.statistics import CompressionStatistics
from autocompress.errors import CompressionError, ConfigError
from autocompress.records import Measurement
from autocompress.trial.distillation import Lesson

STATE_VERSION = 1
_SAMPLES_FOR_STATISTICS = 512
_DIGITS = 9


@dataclass(frozen=True)
class Surveyed:
    """The uncompressed model.

    Attributes:
        model: a copy; not changed.
        inputs: positional arguments of one forward pass.
        size: its size.
        output_shapes: of that forward pass.
        data: registered training data; None without any.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    size: Measurement
    output_shapes: list[tuple[int, ...]]
    data: Any = None


class CompressionController:
    """Compresses a model that somebody else trains. Made by `create_compressed_model`.

    While a schedule goes on weights and filters are masked, and may come back; `strip` removes the filters.

    Args:
        model: the model that is trained; it stays this object.
        uncompressed: as it was.
        parts: the algorithms with a level.
        quantization: what is asked of the quantizer; None: nothing is quantized.
        lesson: listens to the model for the distillation loss; None: nobody teaches it.
        names: of all algorithms.

    Attributes:
        model: as given.
        scheduler: what training calls before epochs and iterations.
    """

    def __init__(
        self,
        model: nn.Module,
        uncompressed: Surveyed,
        parts: list[LevelPart],
        quantization: CompressionRequest | None,
        lesson: Lesson | None,
        names: tuple[str, ...],
    ) -> None:
        self.model, self.uncompressed, self.names = model, uncompressed, names
        self._parts, self._quantization, self._lesson = parts, quantization, lesson
        self.scheduler = CompressionScheduler(parts, self._set_levels)
        self._finished = False

    # What training needs

    def loss(self) -> torch.Tensor:
        """The compression loss of the latest forward pass, to be added to the training loss; 0 where there is none.

        It is that of knowledge distillation and of `rb_sparsity`, a tensor of no dimensions.
        """
        terms = [term for part in self._parts if not self._finished and (term := part.loss()) is not None]
        if self._lesson is not None and (distance := self._lesson.distance()) is not None:
            terms.append(distance)
        return torch.stack(terms).sum() if terms else torch.zeros((), device=device_of(self.model))

    def distributed(self) -> None:
        """Call after the model was wrapped for training on several devices.

        Masks and ranges are buffers, which DistributedDataParallel keeps equal; nothing else needs an adjustment. It is
        here for code that was written for NNCF.
        """

    # How far it has come

    @property
    def level(self) -> float | None:
        """The requested level in force, in [0, 1), to nine digits as the search has it; None where there is none."""
        part = self._adaptive()
        return None if part is None else round(part.level, _DIGITS)

    def level_after(self, epochs: int) -> float:
        """The level that the schedule has in force when so many epochs have been trained."""
        part = self._adaptive()
        return 0.0 if part is None else round(self.scheduler.levels_after(epochs)[part.name], _DIGITS)

    @property
    def quantizes(self) -> bool:
        """Whether weights or activations are rounded."""
        return self._quantization is not None

    def achieved_rate(self, stripped: nn.Module) -> float:
        """The compression rate measured on what `strip` gave."""
        part = self._adaptive()
        return self._bits_saved() if part is None else part.achieved(stripped)

    @property
    def compression_rate(self) -> float:
        """The level in force, in [0, 1): of filters, weights, or, with quantization alone, of bits saved.

        Setting it takes effect at once and ends the schedule.
        """
        part = self._adaptive()
        if isinstance(part, LearnedPart) and not self._finished:
            return part.sparsity()
        return part.level if part is not None else self._bits_saved()

    @compression_rate.setter
    def compression_rate(self, rate: float) -> None:
        part = self._adaptive()
        if part is None:
            raise ConfigError(f"a compression rate needs pruning or sparsity; the algorithms are {self._listed()}")
        if not 0 <= rate < 1:
            raise ConfigError(f"a compression rate must be in [0, 1); got {rate!r}")
        self._require_live()
        self.disable_scheduler()
        self._set_levels({part.name: rate})

    def disable_scheduler(self) -> None:
        """Leave the levels as they are, whatever `scheduler.epoch_step` is told."""
        self.scheduler.enabled = False

    def compression_stage(self) -> CompressionStage:
        """How far compression has come."""
        ended = not self.scheduler.enabled or self._finished
        stages = [stage_of_level(part.level, part.level if ended else part.schedule.target) for part in self._parts]
        quantized = [CompressionStage.FULLY_COMPRESSED] if self._quantization is not None else []
        return combined([*stages, *quantized])

    def statistics(self) -> CompressionStatistics:
        """What has been achieved, measured on a stripped copy of the model."""
        stripped = self.strip()
        return CompressionStatistics(
            algorithms=self.names,
            stage=self.compression_stage(),
            requested_rate=self.level,
            compression_rate=self.achieved_rate(stripped),
            before=self.uncompressed.size,
            after=measure(stripped, self.uncompressed.inputs),
        )

    # The compressed model

    def strip(self, do_copy: bool = True) -> nn.Module:
        """The model without anything of ours on it: filters physically removed, zeros and rounded values written.

        Args:
            do_copy: give a copy; else the model itself becomes that, and is no longer held at its rate.

        Raises:
            CompressionError: it fails without its filters.
        """
        stripped = self._finish(_copied(self.model))
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
        return export(self.strip(), path, self.uncompressed.inputs, original=self.uncompressed.model)

    def get_compression_state(self) -> dict[str, Any]:
        """What `create_compressed_model` needs besides the state dict to go on from here, as JSON."""
        return {
            "schema_version": STATE_VERSION,
            "finished": self._finished,
            "parts": {part.name: part.get_state() for part in self._parts},
            "scheduler": self.scheduler.get_state(),
            "structure": structure_of(self.plain(), self.uncompressed.model),
        }

    # What the loops need

    def plain(self) -> nn.Module:
        """A copy of the model with the weights below masks and rounding; what was removed stays removed."""
        return _copied(self.model) if self._finished else self._plain()

    def start_from(self, model: nn.Module, rate: float | None, *, removed: bool, recalibrated: bool = False) -> None:
        """Put other weights in the model and compress them; the schedule has ended.

        Args:
            model: with plain weights; used up.
            rate: compression rate in [0, 1); None: the algorithms have none.
            removed: remove filters physically, so that epochs get faster; else they are masked.
            recalibrated: estimate BatchNorm's statistics anew on the registered data, for a model that is to be
                evaluated before it is trained.

        Raises:
            CompressionError: nothing would change, or the model fails without its filters.
        """
        self.disable_scheduler()
        part = self._adaptive()
        if part is not None and rate is not None and removed:
            model = part.remove(model, rate)
        masked = part is not None and rate is not None and not (removed and isinstance(part, PruningPart))
        plain = copy.deepcopy(model) if masked else model
        become(self.model, model)
        self.attach(with_data=False)
        if masked and part is not None and rate is not None:
            part.set_level(rate, plain)
        self._take_statistics(recalibrated=recalibrated)

    def settle(self, finished: nn.Module, rate: float | None = None) -> None:
        """Let the model become a finished one, which nothing of ours is on.

        Args:
            finished: used up.
            rate: its compression rate; that in force by default.
        """
        become(self.model, finished)
        self._finished = True
        self.disable_scheduler()
        part = self._adaptive()
        if part is not None and rate is not None:
            part.level = rate

    def attach(self, *, with_data: bool = True) -> None:
        """Put all algorithms on the model, which has nothing of ours on it.

        Args:
            with_data: take ranges of activations from data; else they are taken, or loaded, afterwards.
        """
        self._finished = False
        if self._quantization is not None:
            request = self._quantization if with_data else _without_data(self._quantization)
            FakeQuantizer().compress(self.model, request)
        for part in self._parts:
            part.attach(self.model)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `get_compression_state` was asked, attached to a model of that structure."""
        self.scheduler.load_state(state["scheduler"])
        self._finished = bool(state["finished"])
        for part in self._parts:
            if self._finished:
                part.level = float(state["parts"][part.name]["level"])
            else:
                part.load_state(state["parts"][part.name], self._plain())

    def _take_statistics(self, *, recalibrated: bool) -> None:
        """BatchNorm's statistics first, as ranges taken with those of the wider model would be far too wide."""
        data = self.uncompressed.data
        if data is not None and (recalibrated or self._quantization is not None):
            with unrounded(self.model):
                recalibrate(self.model, first_samples(data, _SAMPLES_FOR_STATISTICS))
        if self._quantization is not None:
            calibrate(self.model, self._quantization)

    def _adaptive(self) -> LevelPart | None:
        """The algorithm whose level is the compression rate: filters before weights."""
        return min(self._parts, key=lambda part: not isinstance(part, PruningPart), default=None)

    def _set_levels(self, levels: Mapping[str, float]) -> None:
        self._require_live()
        moving = [part for part in self._parts if part.name in levels]
        plain = self._plain() if moving else self.model
        for part in moving:
            part.set_level(levels[part.name], plain)

    def _plain(self) -> nn.Module:
        model = bare(_copied(self.model))
        for module in model.modules():
            detach(module)
        return model

    def _finish(self, model: nn.Module) -> nn.Module:
        if self._finished:
            return model
        folded = fold(model)
        for part in self._parts:
            part.finish(folded)
        if any(part.removes for part in self._parts):
            self._require_shapes(folded)
        return folded

    def _require_shapes(self, model: nn.Module) -> None:
        try:
            found = output_shapes(model, self.uncompressed.inputs)
        except Exception as error:
            raise CompressionError(
                f"the model must run without the removed filters; its forward pass fails: {error}"
            ) from error
        if found != self.uncompressed.output_shapes:
            raise CompressionError(
                f"the output's shape must not change; {self.uncompressed.output_shapes} became {found}"
            )

    def _bits_saved(self) -> float:
        request = self._quantization
        if request is None:
            return 0.0
        bits = request.targets[0].quant["quant_bits"]["weight"]
        return float(1 - bits / 32)

    def _require_live(self) -> None:
        if self._finished:
            raise ConfigError("the model is finished: its compression rate can no longer be set")

    def _listed(self) -> str:
        return ", ".join(self.names)


def _copied(model: nn.Module) -> nn.Module:
    copied = copy.deepcopy(model)
    Lesson.forget(copied)
    return copied


def _without_data(request: CompressionRequest) -> CompressionRequest:
    return dataclasses.replace(request, module=None)
