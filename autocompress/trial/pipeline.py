"""Apply the algorithms of a trial one after the other: compress, fine-tune, finish, save."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.compression.base import CompressionRequest, LayerShape, compressor, layer_shapes, left_alone
from autocompress.compression.batchnorm import recalibrate
from autocompress.compression.hooks import evaluate, example_inputs, fresh_model
from autocompress.compression.measure import measure
from autocompress.compression.module import ModuleClass
from autocompress.compression.module_loading import ModuleReference
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import Claim, reread
from autocompress.records import Measurement
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult, ModuleTraining
from autocompress.trial.spec import Stage, TrialSpec


@dataclass(frozen=True)
class ReferenceModel:
    """The uncompressed model of a trial, and what was measured on it."""

    original: nn.Module  # the model; not changed
    inputs: tuple[Any, ...]  # positional arguments of one forward pass
    shapes: Mapping[str, LayerShape]  # sizes of its layers
    size: Measurement  # its size

    @classmethod
    def of(cls, module: ModuleClass) -> ReferenceModel:
        """The reference model of a user's module."""
        original, inputs = fresh_model(module), example_inputs(module)
        return cls(original, inputs, layer_shapes(original), measure(original, inputs))

    def request(self, stage: Stage, module: ModuleClass) -> CompressionRequest:
        """The request of a stage to its compressor."""
        return CompressionRequest(
            algorithm=stage.name,
            targets=stage.choice.rules,
            example_inputs=self.inputs,
            original=self.shapes,
            arguments=stage.choice.arguments,
            module=module,
            uncompressed=self.size,
        )


@dataclass
class Compressed:
    """The result of a pipeline."""

    model: nn.Module  # the finished model, as its file gives it back once `Pipeline.run` has ended
    tuned: FineTuningResult = field(default_factory=FineTuningResult)  # the last stage's fine-tuning
    accuracy: float = math.nan  # the finished model's, in the evaluator's unit
    # that of the model that was fine-tuned, where finishing it has changed what it computes; else None
    simulated_accuracy: float | None = None
    rate: float = 0.0  # achieved compression rate in [0, 1): that of the pruner where there is one
    epochs: int = 0  # epochs of training of all stages
    simulated: bool = False  # whether a stage only simulates what other kernels would compute in fewer bits
    interrupted: bool = False  # whether a signal ended a stage early
    # layer -> a sentence why it keeps its filters, although a rule selects it
    left_alone: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """Runs the stages of a trial."""

    module: ModuleClass  # the user's module
    spec: TrialSpec  # what to do
    reference_model: ReferenceModel  # the uncompressed model and what was measured on it
    threshold: float  # the worst tolerable accuracy
    # called after each evaluation with (epochs of the trial, accuracy, accuracy budget)
    on_epoch: Callable[[int, float, float], None]
    kept: Path  # where the finished model of each stage but the last is saved: from there a later trial can go on
    checkpoint: Path  # where the finished model is saved
    reference: ModuleReference | None = None  # of the module, for checkpoints; None: they name none

    def run(self, model: nn.Module) -> Compressed:
        """Compress and fine-tune the model in place, stage after stage; then finish it and save it.

        Results are measured on the model that its file gives back. Where finishing changes what it computes, as with
        int8 weights, it is evaluated again.

        Raises:
            StoreError: a file cannot be written, or does not hold what was claimed of the model.
            AutoCompressError: a stage cannot be applied.
        """
        done = Compressed(model)
        claims: list[Claim] = []
        kept: nn.Module | None = None
        for stage in self.spec.stages:
            if claims:
                kept = self._saved(claims[-1].compression.finish(copy.deepcopy(done.model)), self.kept)
                claims[-1].require(kept, self.kept)
            claims.append(self._stage(stage, done, first=not claims))
        for claim in reversed(claims):
            done.model = claim.compression.finish(done.model)
        done.model = self._saved(done.model, self.checkpoint)
        claims[-1].require(done.model, self.checkpoint)
        if kept is not None:
            claims[0].require_carried(kept, done.model)
        done.rate = claims[0].rate
        done.accuracy = done.tuned.accuracy
        if any(claim.compression.converts for claim in claims):
            done.simulated_accuracy = done.accuracy
            done.accuracy = evaluate(self.module.evaluator(), done.model.eval())
        return done

    def _saved(self, model: nn.Module, path: Path) -> nn.Module:
        """Save the model, and load it from its file."""
        original = self.reference_model.original
        save_checkpoint(model, path, original=original, module=self.reference)
        return reread(path, model, original, self.reference_model.inputs)

    def _stage(self, stage: Stage, done: Compressed, *, first: bool) -> Claim:
        request = self.reference_model.request(stage, self.module)
        compression = compressor(stage.name).compress(done.model, request)
        if stage.choice.kind == "pruner" and (batches := self.module.calibration_data()) is not None:
            recalibrate(compression.model, batches)
        done.tuned = self._fine_tuning(stage, done, first=first).run(compression.model)
        done.model = compression.model
        done.epochs += compression.epochs + done.tuned.epochs
        done.simulated |= compression.simulated
        done.left_alone |= left_alone(compression)
        done.interrupted |= done.tuned.interrupted
        return Claim.of(compression, whole_model=stage.several_rates)

    def _fine_tuning(self, stage: Stage, done: Compressed, *, first: bool) -> FineTuning:
        before = done.epochs
        return FineTuning(
            training=ModuleTraining(
                module=self.module,
                algorithm=stage.name,
                lr_factor=self.spec.lr_factor,
                distillation=self.spec.distillation,
                teacher=self.reference_model.original,
            ),
            threshold=self.threshold,
            epochs=0 if done.interrupted else stage.epochs,
            evaluate_first=self.spec.evaluate_first or not first,
            validate_every_n_epochs=self.spec.validate_every_n_epochs,
            on_epoch=lambda epoch, accuracy, budget: self.on_epoch(before + epoch, accuracy, budget),
        )
