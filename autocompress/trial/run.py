"""Run one trial: start, run its stages, measure, record. The same under every engine."""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.budget import accuracy_margin
from autocompress.compression.measure import ReferenceModel, measure, measure_latency
from autocompress.compression.model_state import copy_model
from autocompress.compression.module import ModuleClass, evaluate_samples
from autocompress.compression.module_loading import AnyReference, ModuleReference, reference_of
from autocompress.errors import StoreError, short_text
from autocompress.evaluation import Evaluation
from autocompress.formats.checkpoint import load_compressed
from autocompress.plan import ExperimentPlan
from autocompress.records import Sensitivity, TrialRecord
from autocompress.search import OBJECTIVES, score
from autocompress.search.noise import AccuracyNoise
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, TrialDirectory
from autocompress.store.directory import disk_full_message, is_full
from autocompress.trial.baseline import MarginErrors
from autocompress.trial.pipeline import Compressed, Pipeline
from autocompress.trial.process import NullReporter, Reporter, launcher
from autocompress.trial.spec import TrialSpec, preserved_rng_state, seed_everything, trial_key

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
    reference = reference_of(module)
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
    module: ModuleClass, key: str, *, threshold: float, directory: str | Path, reference: AnyReference | None = None
) -> None:
    """Train a finished trial with a damaged checkpoint again; equal parameters give equal weights."""
    experiment = ExperimentDirectory(directory)
    noise, fingerprint = _known_before(experiment)
    trial = experiment.trial(key)
    with trial.locked(launcher()), preserved_rng_state():
        record = trial.record()
        if record is None:
            raise StoreError(f"trial {key} cannot be trained again: it has no record")
        trial.clear_curve()
        known = reference or reference_of(module)
        again = _Trial(
            module, known, record.parameters, threshold, experiment, key, NullReporter(), fingerprint, noise
        ).run()
        if again.state != "completed":
            raise StoreError(f"trial {key} cannot be trained again: {again.error}")


def _known_before(experiment: ExperimentDirectory) -> tuple[AccuracyNoise, str | None]:
    """What is known of accuracies before any trial, and the module's fingerprint; nothing where there is no plan."""
    if not experiment.exists():
        return AccuracyNoise(), None
    plan = ExperimentPlan.read(experiment)
    return AccuracyNoise.of(plan.measured, plan.settings.budget), plan.measured.fingerprint


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
    reference: AnyReference
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
        errors = self._errors(reference_model.original, spec.confidence)
        pipeline = Pipeline(
            module=self.module,
            spec=spec,
            reference_model=reference_model,
            threshold=self.threshold,
            errors=errors,
            on_epoch=lambda epoch, accuracy, margin: self._report_epoch(epoch, accuracy, margin, errors.required),
            kept=self.directory.pruned,
            checkpoint=self.directory.checkpoint,
            reference=self.reference if isinstance(self.reference, ModuleReference) else None,
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

    def _report_epoch(self, epoch: int, accuracy: float, budget: float, required: float) -> None:
        reduction = requested_rate(self.parameters) or 0.0  # what is removed is not measured yet
        so_far = score(reduction, budget - required, self.threshold)
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
