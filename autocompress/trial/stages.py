"""The stages of a trial: each compresses the model and fine-tunes it; a mix has two."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from autocompress.compress.base import Compression, left_alone
from autocompress.compress.batchnorm import recalibrate
from autocompress.compress.module import ModuleClass
from autocompress.compress.registry import compressor
from autocompress.trial.fine_tune import FineTuning, Tuned
from autocompress.trial.order import Stage, TrialOrder
from autocompress.trial.surroundings import Surroundings
from autocompress.trial.training import ModuleTraining


@dataclass
class Compressed:
    """What the stages came to.

    Attributes:
        model: the finished model.
        tuned: the last stage's fine-tuning: the finished model's accuracy.
        rate: achieved compression rate in [0, 1): that of the pruner where there is one.
        epochs: epochs of training of all stages.
        simulated: whether a stage only simulates what other kernels would compute in fewer bits.
        interrupted: whether a signal ended a stage early.
        left_alone: layer -> a sentence why it keeps its filters, although a rule selects it.
    """

    model: nn.Module
    tuned: Tuned = field(default_factory=Tuned)
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
        keep: called with the finished model of each stage but the last: from there a later trial can go on.
    """

    module: ModuleClass
    order: TrialOrder
    surroundings: Surroundings
    threshold: float
    on_epoch: Callable[[int, float, float], None]
    keep: Callable[[nn.Module], None]

    def run(self, model: nn.Module) -> Compressed:
        """Compress and fine-tune the model, which is changed, stage after stage; then finish it.

        Raises:
            AutoCompressError: a stage cannot be applied; whatever the user's code raises.
        """
        done = Compressed(model)
        compressions: list[Compression] = []
        for stage in self.order.stages:
            if compressions:
                self.keep(compressions[-1].finish(copy.deepcopy(done.model)))
            compressions.append(self._stage(stage, done, first=not compressions))
        for compression in reversed(compressions):
            done.model = compression.finish(done.model)
        return done

    def _stage(self, stage: Stage, done: Compressed, *, first: bool) -> Compression:
        request = self.surroundings.request(stage, self.module)
        compression = compressor(stage.name).compress(done.model, request)
        if stage.choice.kind == "pruner" and (batches := self.module.calibration_data()) is not None:
            recalibrate(compression.model, batches)
        done.tuned = self._fine_tuning(stage, done, first=first).run(compression.model)
        if first:
            done.rate = compression.achieved_rate(compression.model, whole_model=stage.several_rates)
        done.model = compression.model
        done.epochs += compression.epochs + done.tuned.epochs
        done.simulated |= compression.simulated
        done.left_alone |= left_alone(compression)
        done.interrupted |= done.tuned.interrupted
        return compression

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
