"""The uncompressed model of a trial, and what compressors and measurements need to know of it."""

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
from autocompress.formats.claims import Claim, load_verified
from autocompress.records import Measurement
from autocompress.trial.fine_tuning import FineTuning, ModuleTraining, Tuned
from autocompress.trial.spec import Stage, TrialOrder


@dataclass(frozen=True)
class Surroundings:
    """The uncompressed model.

    Attributes:
        original: the model; not changed.
        inputs: positional arguments of one forward pass.
        shapes: sizes of its layers.
        size: its size.
    """

    original: nn.Module
    inputs: tuple[Any, ...]
    shapes: Mapping[str, LayerShape]
    size: Measurement

    @classmethod
    def of(cls, module: ModuleClass) -> Surroundings:
        """Ask the user's module.

        Raises:
            ModuleError: a hook returns something unusable.
        """
        original, inputs = fresh_model(module), example_inputs(module)
        return cls(original, inputs, layer_shapes(original), measure(original, inputs))

    def request(self, stage: Stage, module: ModuleClass) -> CompressionRequest:
        """What a stage asks of its compressor."""
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
    """What the stages came to.

    Attributes:
        model: the finished model, as its file gives it back once `Pipeline.run` has ended.
        tuned: the last stage's fine-tuning.
        accuracy: the finished model's, in the evaluator's unit.
        simulated_accuracy: that of the model that was fine-tuned, where finishing it has changed what it computes; else
            None.
        rate: achieved compression rate in [0, 1): that of the pruner where there is one.
        epochs: epochs of training of all stages.
        simulated: whether a stage only simulates what other kernels would compute in fewer bits.
        interrupted: whether a signal ended a stage early.
        left_alone: layer -> a sentence why it keeps its filters, although a rule selects it.
    """

    model: nn.Module
    tuned: Tuned = field(default_factory=Tuned)
    accuracy: float = math.nan
    simulated_accuracy: float | None = None
    rate: float = 0.0
    epochs: int = 0
    simulated: bool = False
    interrupted: bool = False
    left_alone: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """Runs the stages of a trial's order.

    Attributes:
        module: the user's module.
        order: what to do.
        surroundings: the uncompressed model and what was measured on it.
        threshold: the worst tolerable accuracy.
        on_epoch: called after each evaluation with (epochs of the trial, accuracy, accuracy budget).
        kept: where the finished model of each stage but the last is saved: from there a later trial can go on.
        checkpoint: where the finished model is saved.
        reference: of the module, for checkpoints; None: they name none.
    """

    module: ModuleClass
    order: TrialOrder
    surroundings: Surroundings
    threshold: float
    on_epoch: Callable[[int, float, float], None]
    kept: Path
    checkpoint: Path
    reference: ModuleReference | None = None

    def run(self, model: nn.Module) -> Compressed:
        """Compress and fine-tune the model, which is changed, stage after stage; then finish it and save it.

        What is told of the model is measured on what its file gives back. Where finishing changes what it computes, as
        with int8 weights, it is evaluated again.

        Raises:
            StoreError: a file cannot be written, or does not hold what was claimed of the model.
            AutoCompressError: a stage cannot be applied; whatever the user's code raises.
        """
        done = Compressed(model)
        claims: list[Claim] = []
        kept: nn.Module | None = None
        for stage in self.order.stages:
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
        self._judge(done, converted=any(claim.compression.converts for claim in claims))
        return done

    def _saved(self, model: nn.Module, path: Path) -> nn.Module:
        """The model as its file gives it back."""
        original = self.surroundings.original
        save_checkpoint(model, path, original=original, module=self.reference)
        return load_verified(path, model, original, self.surroundings.inputs)

    def _judge(self, done: Compressed, *, converted: bool) -> None:
        done.accuracy = done.tuned.accuracy
        if converted:
            done.simulated_accuracy = done.accuracy
            done.accuracy = evaluate(self.module.evaluator(), done.model.eval())

    def _stage(self, stage: Stage, done: Compressed, *, first: bool) -> Claim:
        request = self.surroundings.request(stage, self.module)
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
                lr_factor=self.order.lr_factor,
                distillation=self.order.distillation,
                teacher=self.surroundings.original,
            ),
            threshold=self.threshold,
            epochs=0 if done.interrupted else stage.epochs,
            evaluate_first=self.order.evaluate_first or not first,
            validate_every_n_epochs=self.order.validate_every_n_epochs,
            on_epoch=lambda epoch, accuracy, budget: self.on_epoch(before + epoch, accuracy, budget),
        )
