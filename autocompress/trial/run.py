"""Run one trial: compress, fine-tune, finish, save, measure, record. The same under every engine."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.budget import accuracy_margin
from autocompress.compression.base import AppliedAlgorithms, CompressionRequest
from autocompress.compression.measure import ReferenceModel, measure, measure_latency
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, evaluate_samples
from autocompress.compression.module_loading import ModuleReference
from autocompress.compression.pruning.pruner import FilterPruner
from autocompress.compression.trainer_hooks import recalibration_batches
from autocompress.errors import StoreError, short_text
from autocompress.evaluation import Evaluation
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.formats.claims import Claim, load_verified
from autocompress.plan import ExperimentPlan
from autocompress.records import Sensitivity, TrialRecord
from autocompress.registry import algorithm
from autocompress.search import OBJECTIVES, score
from autocompress.search.noise import AccuracyNoise
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, TrialDirectory
from autocompress.store.directory import disk_full_message, is_full
from autocompress.trial.baseline import MarginErrors
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult, ModuleTraining
from autocompress.trial.optimization import Optimization
from autocompress.trial.process import NullReporter, Reporter, launcher
from autocompress.trial.spec import Stage, TrialSpec, preserved_rng_state, seed_everything, trial_key


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
        if isinstance(algorithm(stage.name), FilterPruner):
            self._remove_gradually(stage, done)
        done.model = applied.apply(done.model, self._request(stage), self._batches(stage, done.model))
        training = self._training(stage, self.spec.optimization)
        first = len(applied.compressions) == 1
        tuned = FineTuning(
            training=training,
            threshold=self.threshold,
            epochs=0 if done.interrupted else stage.epochs - self._gradual_epochs(stage),
            evaluate_first=self.spec.evaluate_first or not first,
            validate_every_n_epochs=self.spec.validate_every_n_epochs,
            on_epoch=self._reporter(done.epochs),
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

    def _remove_gradually(self, stage: Stage, done: Compressed) -> None:
        """All steps of removing filters but the last, each with training after it unless it is within the budget."""
        constant = dataclasses.replace(self.spec.optimization, schedule="constant")
        for step in range(1, self.spec.pruning_steps):
            request = self._request(stage, step / self.spec.pruning_steps)
            cut = AppliedAlgorithms()
            done.model = cut.apply(done.model, request, self._batches(stage, done.model))
            tuned = FineTuning(
                training=self._training(stage, constant),
                threshold=self.threshold,
                epochs=0 if done.interrupted else self._gradual_epochs(stage) // (self.spec.pruning_steps - 1),
                evaluate_first=True,
                required_margin=lambda: self.errors.required,
            ).run(done.model)
            done.epochs += cut.compressions[-1].epochs + tuned.epochs
            done.interrupted |= tuned.interrupted

    def _gradual_epochs(self, stage: Stage) -> int:
        """Epochs of all pruning steps but the last."""
        steps = self.spec.pruning_steps
        return (steps - 1) * (stage.epochs // steps) if isinstance(algorithm(stage.name), FilterPruner) else 0

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


_logger = logging.getLogger("autocompress.trial")

REPORTED = (
    "accuracy",
    "accuracy_margin",
    "feasible",
    "requested_rate",
    "achieved_rate",
    "parameters_removed",
    "macs_removed",
    "latency_removed",
    "bytes",
    "simulated",
    "simulated_accuracy",
    "epochs",
    "algorithm",
)
"""Fields of the record that are reported beside the score."""


@checked_arguments
def run_trial(
    module: ModuleClass,
    parameters: Mapping[str, Any],
    *,
    threshold: float,
    directory: str | Path,
    reporter: Reporter | None = None,
    fingerprint: str | None = None,
    noise: AccuracyNoise | None = None,
) -> TrialRecord:
    """Run one trial, or answer it from its record if it has been run.

    Args:
        module: the user's module.
        parameters: the trial's JSON object: `algorithm_name` and, optionally, `search`.
        threshold: the worst tolerable accuracy, in the evaluator's unit.
        directory: the experiment's directory; the trial's own is `trials/<key>` in it.
        reporter: receives every evaluation and the final result; by default they are discarded.
        fingerprint: hash of the module's source text for the trial's key, where an experiment began with another
            text; that of the module as it is by default.
        noise: what is known of the evaluator's before any trial; by default nothing.

    Returns:
        the record, which is on disk too. A trial that raised has the state "failed" and the reason.

    Raises:
        StoreError: the record cannot be written, or the disk is full.
    """
    reporter = reporter or NullReporter()
    reference = ModuleReference.of(module)
    fingerprint = fingerprint or reference.fingerprint()
    key = trial_key(fingerprint, parameters, threshold)
    experiment = ExperimentDirectory(directory)
    trial = experiment.trial(key)
    with trial.locked(launcher()):
        record = trial.record()
        if record is None or record.state != "completed":
            trial.clear()
            known = noise or AccuracyNoise()
            record = _Trial(
                module, reference, dict(parameters), threshold, experiment, key, reporter, fingerprint, known
            ).run()
            trial.write_record(record)
    reporter.report_final(final_result(record))
    return record


def retrain(
    module: ModuleClass, key: str, *, threshold: float, directory: str | Path, reference: ModuleReference | None = None
) -> None:
    """Train a finished trial with a damaged checkpoint again; equal parameters give equal weights."""
    experiment = ExperimentDirectory(directory)
    trial = experiment.trial(key)
    with trial.locked(launcher()), preserved_rng_state():
        record = trial.record()
        if record is None:
            raise StoreError(f"trial {key} cannot be trained again: it has no record")
        trial.clear_curve()
        known = reference or ModuleReference.of(module)
        again = _Trial(module, known, record.parameters, threshold, experiment, key, NullReporter()).run()
        if again.state != "completed":
            raise StoreError(f"trial {key} cannot be trained again: {again.error}")


def final_result(record: TrialRecord) -> dict[str, Any]:
    """The final result as it is reported: the score as `default`, and what was measured, booleans as 0 and 1."""
    fields = {name: getattr(record, name) for name in REPORTED}
    known = {
        name: int(value) if isinstance(value, bool) else value for name, value in fields.items() if value is not None
    }
    return {"default": record.score if record.score is not None else -1.0, **known}


@dataclass(frozen=True)
class _Trial:
    module: ModuleClass
    reference: ModuleReference
    parameters: dict[str, Any]
    threshold: float
    experiment: ExperimentDirectory
    key: str
    reporter: Reporter
    fingerprint: str | None = None  # of the module; None: no model is compared with the uncompressed one
    noise: AccuracyNoise = field(default_factory=AccuracyNoise)

    @property
    def directory(self) -> TrialDirectory:
        return self.experiment.trial(self.key)

    def run(self) -> TrialRecord:
        started = time.monotonic()
        record = TrialRecord(
            key=self.key, algorithm=_algorithm_name(self.parameters), state="failed", parameters=self.parameters
        )
        try:
            spec = TrialSpec.read(self.module, self.parameters)
            record = dataclasses.replace(
                record,
                requested_rate=spec.requested_rate,
                lr_factor=spec.optimization.lr_factor,
                seed=spec.seed,
                start_from=spec.start_from,
            )
            record = self._completed(record, spec)
        except (Exception, SystemExit) as error:
            if is_full(error):
                raise StoreError(disk_full_message(self.experiment.path)) from error
            self.directory.write_traceback(traceback.format_exc())
            record = dataclasses.replace(record, error=f"{type(error).__name__}: {short_text(str(error))}")
        return dataclasses.replace(record, seconds=round(time.monotonic() - started, 3))

    def _completed(self, record: TrialRecord, spec: TrialSpec) -> TrialRecord:
        seed_everything(spec.seed)
        reference_model = dataclasses.replace(ReferenceModel.of(self.module), sensitivities=self._sensitivities())
        pipeline = Pipeline(
            module=self.module,
            spec=spec,
            reference_model=reference_model,
            threshold=self.threshold,
            errors=self._errors(reference_model.original, spec.confidence),
            on_epoch=self._report_epoch,
            kept=self.directory.pruned,
            checkpoint=self.directory.checkpoint,
            reference=self.reference,
            start_rate=self._start_rate(spec),
        )
        done = pipeline.run(self._start(reference_model.original, spec))
        return self._measured(record, done, reference_model, spec.objective)

    def _start_rate(self, spec: TrialSpec) -> float:
        record = None if spec.start_from is None else self.experiment.trial(spec.start_from).record()
        return (record and record.requested_rate) or 0.0

    def _errors(self, original: nn.Module, confidence: float) -> MarginErrors:
        def evaluate_uncompressed() -> Evaluation:
            with preserved_rng_state():
                seed_everything(0)
                return evaluate_samples(self.module.evaluator(), copy_model(original).eval())

        known = self.fingerprint is not None
        evaluator = evaluate_uncompressed if known else None
        return MarginErrors(self.noise, self.experiment, self.fingerprint or "", evaluator, confidence)

    def _sensitivities(self) -> tuple[Sensitivity, ...]:
        """Those that the trial's key counts; none where its parameters name none."""
        wanted = (self.parameters.get("search") or {}).get("probe")
        if wanted is None:
            return ()
        baseline = ExperimentPlan.read(self.experiment).measured
        if baseline.probe != wanted:
            raise StoreError(
                f"{self.experiment.settings_path} must hold the sensitivities {wanted!r} that the trial's parameters "
                f"name; it has {baseline.probe!r}"
            )
        return baseline.sensitivities

    def _start(self, original: nn.Module, spec: TrialSpec) -> nn.Module:
        if spec.start_from is None:
            return copy_model(original)
        trial = self.experiment.trial(spec.start_from)
        path = trial.pruned if len(spec.stages) > 1 else trial.checkpoint
        try:
            return load_compressed(path, original)
        except StoreError as error:
            if trial.record() is None:
                raise
            _logger.warning("%s; its trial is trained again", error)
        retrain(
            self.module,
            spec.start_from,
            threshold=self.threshold,
            directory=self.experiment.path,
            reference=self.reference,
        )
        return load_compressed(path, original)

    def _report_epoch(self, epoch: int, accuracy: float, budget: float) -> None:
        reduction = requested_rate(self.parameters) or 0.0  # what is removed is not measured yet
        so_far = score(reduction, budget, self.threshold)
        result = {"default": so_far, "accuracy": accuracy, "accuracy_margin": budget, "epoch": epoch}
        self.directory.append_epoch({**result, "time": time.time()})
        self.reporter.report_epoch(result)

    def _measured(
        self, record: TrialRecord, done: Compressed, reference_model: ReferenceModel, objective: str
    ) -> TrialRecord:
        budget = accuracy_margin(done.accuracy, self.threshold, higher_is_better=self.module.higher_is_better)
        size = (self.directory.checkpoint / "weights.pt").stat().st_size
        after = dataclasses.replace(measure(done.model, reference_model.inputs), bytes=size)
        measured = dataclasses.replace(
            record,
            state="stopped" if done.interrupted else "completed",
            accuracy=done.accuracy,
            accuracy_margin=budget,
            accuracy_error=done.error,
            required_margin=done.required,
            feasible=budget >= done.required,
            simulated_accuracy=done.simulated_accuracy,
            achieved_rate=done.rate,
            bytes=size,
            simulated=done.simulated,
            epochs=done.epochs,
            fine_tuning_schedule=done.schedule,
            steps_per_epoch=done.steps_per_epoch,
            second_chance_epochs=done.second_chance_epochs,
            left_alone=done.left_alone,
            checkpoint=str(self.directory.checkpoint.relative_to(self.experiment.path)),
            **reference_model.size.removed_in(after),
            **(_latency(done.model, reference_model) if objective == "latency" else {}),
        )
        reduction = getattr(measured, OBJECTIVES[objective])
        return dataclasses.replace(measured, score=score(reduction, budget - done.required, self.threshold))


def _latency(model: nn.Module, reference_model: ReferenceModel) -> dict[str, Any]:
    """Both models are timed alternately, so that other load slows both."""
    measured = measure_latency(model, reference_model.original, reference_model.inputs)
    return {"latency": measured.seconds, "latency_removed": 1 - measured.seconds / measured.original_seconds}


def _algorithm_name(parameters: Mapping[str, Any]) -> str:
    chosen = parameters.get("algorithm_name")
    return str(chosen.get("_name")) if isinstance(chosen, Mapping) else "unknown"
