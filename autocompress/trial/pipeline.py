"""The stages of a trial: compress, fine-tune, finish, save, check what was saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from autocompress.compression.applied_algorithms import AppliedAlgorithms
from autocompress.compression.hooks import evaluate
from autocompress.compression.module import ModuleClass
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.reference_model import ReferenceModel
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import Claim, load_verified
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult, ModuleTraining
from autocompress.trial.spec import Stage, TrialSpec


@dataclass
class Compressed:
    """The result of the stages.

    Attributes:
        model: the finished model, as its file gives it back once `Pipeline.run` has ended.
        tuned: the last stage's fine-tuning.
        accuracy: the finished model's, in the evaluator's unit.
        simulated_accuracy: that of the fine-tuned model, where finishing it has changed what it computes; else None.
        rate: achieved compression rate in [0, 1): that of the pruner where there is one.
        epochs: epochs of training of all stages.
        simulated: whether a stage only simulates what other kernels would compute in fewer bits.
        interrupted: whether a signal ended a stage early.
        left_alone: layer -> the reason why it keeps its filters although a rule selects it.
    """

    model: nn.Module
    tuned: FineTuningResult = field(default_factory=FineTuningResult)
    accuracy: float = math.nan
    simulated_accuracy: float | None = None
    rate: float = 0.0  # achieved compression rate in [0, 1): that of the pruner where there is one
    epochs: int = 0  # epochs of training of all stages
    simulated: bool = False  # whether a stage only simulates what other kernels would compute in fewer bits
    interrupted: bool = False  # whether a signal ended a stage early
    # layer -> a sentence why it keeps its filters, although a rule selects it
    left_alone: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pipeline:
    """Runs the stages of a trial.

    Attributes:
        module: the user's module.
        spec: the trial's parameters.
        reference_model: the uncompressed model.
        threshold: the worst tolerable accuracy.
        on_epoch: called after each evaluation with (epochs of the trial, accuracy, accuracy margin).
        kept: path of the finished model of each stage but the last: later trials start from there.
        checkpoint: path of the finished model.
        reference: of the module, for checkpoints; None: they name none.
    """

    module: ModuleClass
    spec: TrialSpec
    reference_model: ReferenceModel
    threshold: float
    on_epoch: Callable[[int, float, float], None]
    kept: Path  # where the finished model of each stage but the last is saved: from there a later trial can go on
    checkpoint: Path  # where the finished model is saved
    reference: ModuleReference | None = None  # of the module, for checkpoints; None: they name none

    def run(self, model: nn.Module) -> Compressed:
        """Compress and fine-tune the model in place, stage after stage; then finish it and save it.

        The result is measured on what the file gives back. Where finishing changes what the model computes, as with
        int8 weights, it is evaluated again.

        Raises:
            StoreError: a file cannot be written, or does not hold the model that was saved.
            AutoCompressError: a stage cannot be applied; whatever the user's code raises.
        """
        done, applied = Compressed(model), AppliedAlgorithms()
        claims: list[Claim] = []
        kept: nn.Module | None = None
        for stage in self.spec.stages:
            if claims:
                kept = self._saved(applied.finish(copy.deepcopy(done.model)), self.kept)
                claims[-1].require(kept, self.kept)
            self._stage(stage, done, applied)
            claims.append(Claim.of(applied.compressions[-1], whole_model=stage.several_rates))
        done.model = self._saved(applied.finish(done.model), self.checkpoint)
        claims[-1].require(done.model, self.checkpoint)
        if kept is not None:
            claims[0].require_carried(kept, done.model)
        done.rate, done.simulated, done.left_alone = claims[0].rate, applied.simulated, applied.left_alone
        done.accuracy = done.tuned.accuracy
        if applied.converts:
            done.simulated_accuracy = done.accuracy
            done.accuracy = evaluate(self.module.evaluator(), done.model.eval())
        return done

    def _saved(self, model: nn.Module, path: Path) -> nn.Module:
        """The model as its file gives it back."""
        original = self.reference_model.original
        save_checkpoint(model, path, original=original, module=self.reference)
        return load_verified(path, model, original, self.reference_model.inputs)

    def _stage(self, stage: Stage, done: Compressed, applied: AppliedAlgorithms) -> None:
        choice, first = stage.choice, not applied.compressions
        request = self.reference_model.request(choice.name, choice.rules, choice.arguments, self.module)
        done.model = applied.apply(
            done.model, request, self.module.calibration_data() if choice.kind == "pruner" else None
        )
        done.tuned = self._fine_tuning(stage, done, first=first).run(done.model)
        done.epochs += applied.compressions[-1].epochs + done.tuned.epochs
        done.interrupted |= done.tuned.interrupted

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
            on_epoch=lambda epoch, accuracy, margin: self.on_epoch(before + epoch, accuracy, margin),
        )
