"""The stages of a trial: compress, fine-tune, finish, save. The same under every engine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.compression.base import AppliedAlgorithms, CompressionRequest
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, evaluate_samples
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.pruning.pruner import FilterPruner
from autocompress.compression.trainer_hooks import recalibration_batches
from autocompress.formats.checkpoint import save_checkpoint
from autocompress.formats.claims import Claim, load_verified
from autocompress.registry import algorithm
from autocompress.trial.baseline import MarginErrors
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult, ModuleTraining
from autocompress.trial.optimization import Optimization
from autocompress.trial.spec import Stage, TrialSpec


@dataclass
class Compressed:
    """The result of the stages.

    Attributes:
        model: the finished model, as its file gives it back once `Pipeline.run` has ended.
        tuned: the last stage's fine-tuning.
        accuracy: the finished model's, in the evaluator's unit.
        error: standard error of its margin; None: not known.
        required: least margin that is within the budget.
        simulated_accuracy: that of the fine-tuned model, where finishing it has changed what it computes; else None.
        rate: achieved compression rate in [0, 1): that of the pruner where there is one.
        epochs: epochs of training of all stages.
        simulated: whether a stage only simulates what other kernels would compute in fewer bits.
        preparing_epochs: those of the epochs in which filters were ranked for all steps of their removal but the last.
        interrupted: whether a signal ended a stage early.
        left_alone: layer -> the reason why it keeps its filters although a rule selects it.
        schedule: of the learning rates; None: nothing was trained.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
        second_chance_epochs: those of the epochs that came after a near miss.
    """

    model: nn.Module
    tuned: FineTuningResult = field(default_factory=FineTuningResult)
    accuracy: float = math.nan
    error: float | None = None
    required: float = 0.0
    simulated_accuracy: float | None = None
    rate: float = 0.0
    epochs: int = 0
    preparing_epochs: int = 0
    simulated: bool = False
    interrupted: bool = False
    left_alone: dict[str, str] = field(default_factory=dict)
    schedule: str | None = None
    steps_per_epoch: int | None = None
    second_chance_epochs: int = 0


@dataclass(frozen=True)
class Pipeline:
    """Runs the stages of a trial.

    Attributes:
        module: the user's module.
        spec: the trial's parameters.
        reference_model: the uncompressed model.
        threshold: the worst tolerable accuracy.
        errors: of the margins of its evaluations.
        on_epoch: called after each evaluation with (epochs of the trial, accuracy, accuracy margin).
        kept: path of the finished model of each stage but the last: later trials start from there.
        checkpoint: path of the finished model.
        reference: of the module, for checkpoints; None: they name none.
        start_rate: that was requested of the model to start from.
    """

    module: ModuleClass
    spec: TrialSpec
    reference_model: ReferenceModel
    threshold: float
    errors: MarginErrors
    on_epoch: Callable[[int, float, float], None]
    kept: Path  # where the finished model of each stage but the last is saved: from there a later trial can go on
    checkpoint: Path  # where the finished model is saved
    reference: ModuleReference | None = None  # of the module, for checkpoints; None: they name none
    start_rate: float = 0.0

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
                kept = self._saved(applied.finish(copy_model(done.model)), self.kept)
                claims[-1].require(kept, self.kept)
            self._stage(stage, done, applied)
            claims.append(Claim.of(applied.compressions[-1], whole_model=stage.several_rates))
        done.model = self._saved(applied.finish(done.model), self.checkpoint)
        claims[-1].require(done.model, self.checkpoint)
        if kept is not None:
            claims[0].require_carried(kept, done.model)
        done.rate, done.simulated, done.left_alone = claims[0].rate, applied.simulated, applied.left_alone
        done.accuracy, done.error, done.required = done.tuned.accuracy, done.tuned.error, done.tuned.required
        if applied.converts:
            done.simulated_accuracy = done.accuracy
            done.accuracy = self.errors.accuracy(evaluate_samples(self.module.evaluator(), done.model.eval()))
            done.error, done.required = self.errors.latest, self.errors.required
        return done

    def _saved(self, model: nn.Module, path: Path) -> nn.Module:
        """The model as its file gives it back."""
        original = self.reference_model.original
        save_checkpoint(model, path, original=original, module=self.reference)
        return load_verified(path, model, original, self.reference_model.inputs)

    def _stage(self, stage: Stage, done: Compressed, applied: AppliedAlgorithms) -> None:
        spent = self._remove_gradually(stage, done)
        done.model = applied.apply(done.model, self._request(stage), self._batches(stage, done.model))
        training = self._training(stage, self.spec.optimization)
        first = len(applied.compressions) == 1
        tuned = FineTuning(
            training=training,
            threshold=self.threshold,
            epochs=0 if done.interrupted else stage.epochs - spent,
            evaluate_first=self.spec.evaluate_first or not first,
            validate_every_n_epochs=self.spec.validate_every_n_epochs,
            on_epoch=self._reporter(done.epochs - done.preparing_epochs),
            second_chance_epochs=self.spec.second_chance_epochs,
            leaves_early=self.spec.purpose != "final",
            margin_error=lambda: self.errors.latest,
            required_margin=lambda: self.errors.required,
        ).run(done.model)
        done.tuned, done.schedule = tuned, training.schedule or done.schedule
        done.steps_per_epoch = training.steps_per_epoch
        done.epochs += applied.compressions[-1].epochs + tuned.epochs
        done.second_chance_epochs += tuned.second_chance_epochs
        done.interrupted |= tuned.interrupted

    def _remove_gradually(self, stage: Stage, done: Compressed) -> int:
        """All steps of removing filters but the last, each with training after it unless it is within the budget.

        Returns:
            the epochs of fine-tuning that they took.
        """
        steps = self.spec.pruning_steps
        if steps == 1 or self.spec.purpose == "final" or not isinstance(algorithm(stage.name), FilterPruner):
            return 0
        constant, spent = dataclasses.replace(self.spec.optimization, schedule="constant"), 0
        for step in range(1, steps):
            cut = AppliedAlgorithms()
            done.model = cut.apply(done.model, self._request(stage, step / steps), self._batches(stage, done.model))
            tuned = FineTuning(
                training=self._training(stage, constant),
                threshold=self.threshold,
                epochs=0 if done.interrupted else stage.epochs // steps,
                evaluate_first=True,
                required_margin=lambda: self.errors.required,
            ).run(done.model)
            spent += tuned.epochs
            done.epochs += cut.compressions[-1].epochs + tuned.epochs
            done.preparing_epochs += cut.compressions[-1].epochs
            done.interrupted |= tuned.interrupted
        return spent

    def _request(self, stage: Stage, share: float = 1.0) -> CompressionRequest:
        """What to compress: so much of the way from the start's rate to the requested one."""
        choice, rules = stage.choice, stage.choice.rules
        if share < 1:
            rules = tuple(
                rule if rule.rate is None else dataclasses.replace(rule, rate=self._rate_between(rule.rate, share))
                for rule in rules
            )
        return self.reference_model.request(choice.name, rules, choice.arguments, self.module)

    def _rate_between(self, rate: float, share: float) -> float:
        return min(rate, self.start_rate + (rate - self.start_rate) * share)

    def _batches(self, stage: Stage, model: nn.Module) -> Iterable[Any] | None:
        """On which BatchNorm's statistics are estimated after the filters have gone; None: they stay."""
        if stage.choice.kind != "pruner":
            return None
        if not self.spec.recalibrates:
            return self.module.calibration_data()
        return recalibration_batches(self.module, stage.name, model)

    def _training(self, stage: Stage, optimization: Optimization) -> ModuleTraining:
        teacher = self.reference_model.original
        return ModuleTraining(self.module, stage.name, optimization, teacher, self.errors.accuracy)

    def _reporter(self, before: int) -> Callable[[int, float, float], None]:
        return lambda epoch, accuracy, margin: self.on_epoch(before + epoch, accuracy, margin)
