"""Running one trial: compress, fine-tune, measure, save, record. The same under every engine."""

from __future__ import annotations

import copy
import dataclasses
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shapes
from autocompress.compress.batchnorm import recalibrate
from autocompress.compress.checkpoint import load_compressed, save_checkpoint
from autocompress.compress.hooks import example_inputs, fresh_model
from autocompress.compress.loading import ModuleReference
from autocompress.compress.measure import measure
from autocompress.compress.module import ModuleClass
from autocompress.compress.registry import compressor
from autocompress.records import Measurement, TrialRecord
from autocompress.search import OBJECTIVES, score
from autocompress.store import ExperimentDirectory, TrialDirectory
from autocompress.trial.fine_tune import FineTuning, Tuned
from autocompress.trial.key import trial_key
from autocompress.trial.order import TrialOrder
from autocompress.trial.reporter import Reporter, Silent
from autocompress.trial.seeds import seed_everything

REPORTED = (
    "accuracy",
    "accuracy_budget",
    "feasible",
    "requested_rate",
    "compression_rate",
    "parameters_removed",
    "macs_removed",
    "bytes",
    "epochs",
    "algorithm",
)
"""Fields of the record that are reported beside the score."""


def run_trial(
    module: ModuleClass,
    parameters: Mapping[str, Any],
    *,
    threshold: float,
    directory: str | Path,
    reporter: Reporter | None = None,
) -> TrialRecord:
    """Run one trial, or answer it from its record if it has been run.

    Args:
        module: the user's module.
        parameters: the trial's JSON object: `algorithm_name` and, optionally, `search`.
        threshold: the worst tolerable accuracy, in the evaluator's unit.
        directory: the experiment's directory; the trial's own is `trials/<key>` in it.
        reporter: told of every evaluation and of the end; nobody by default.

    Returns:
        the record, which is on disk too. A trial that raised has the state "failed" and the reason.

    Raises:
        StoreError: the record cannot be written.
    """
    reporter = reporter or Silent()
    reference = ModuleReference.of(module)
    key = trial_key(reference.fingerprint(), parameters, threshold)
    experiment = ExperimentDirectory(directory)
    trial = experiment.trial(key)
    with trial.locked():
        record = trial.record()
        if record is None or record.state != "completed":
            trial.clear()
            record = _Trial(module, reference, dict(parameters), threshold, experiment, key, reporter).run()
            trial.write_record(record)
    reporter.report_final(final_result(record))
    return record


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

    @property
    def directory(self) -> TrialDirectory:
        return self.experiment.trial(self.key)

    def run(self) -> TrialRecord:
        started = time.monotonic()
        record = TrialRecord(
            key=self.key, algorithm=_algorithm_name(self.parameters), state="failed", parameters=self.parameters
        )
        try:
            order = TrialOrder.read(self.module, self.parameters)
            record = dataclasses.replace(
                record,
                requested_rate=order.requested_rate,
                lr_factor=order.lr_factor,
                seed=order.seed,
                start_from=order.start_from,
            )
            record = self._completed(record, order)
        except Exception as error:  # noqa: BLE001 - whatever a user's code raises is this trial's result
            self.directory.write_traceback(traceback.format_exc())
            record = dataclasses.replace(record, error=f"{type(error).__name__}: {error}")
        return dataclasses.replace(record, seconds=round(time.monotonic() - started, 3))

    def _completed(self, record: TrialRecord, order: TrialOrder) -> TrialRecord:
        seed_everything(order.seed)
        original, inputs = fresh_model(self.module), example_inputs(self.module)
        shapes, before = layer_shapes(original), measure(original, inputs)
        model = self._start(original, order)
        request = self._request(order, inputs, shapes)
        compression = compressor(order.choice.name).compress(model, request)
        batches = self.module.calibration_data()
        if batches is not None:
            recalibrate(compression.model, batches)
        tuned = self._fine_tuning(order).run(compression.model)
        finished = compression.finish(compression.model)
        rate = compression.achieved_rate(finished, whole_model=order.several_rates)
        save_checkpoint(finished, self.directory.checkpoint, original=original, module=self.reference)
        after = dataclasses.replace(measure(finished, inputs), bytes=_weights_size(self.directory.checkpoint))
        return self._measured(record, tuned, rate, before, after, order.objective)

    def _start(self, original: nn.Module, order: TrialOrder) -> nn.Module:
        model = copy.deepcopy(original)
        if order.start_from is None:
            return model
        return load_compressed(self.experiment.trial(order.start_from).checkpoint, model)

    def _request(
        self, order: TrialOrder, inputs: tuple[Any, ...], shapes: Mapping[str, LayerShape]
    ) -> CompressionRequest:
        return CompressionRequest(
            algorithm=order.choice.name,
            targets=order.targets,
            example_inputs=inputs,
            original=shapes,
            arguments=order.choice.arguments,
            module=self.module,
        )

    def _fine_tuning(self, order: TrialOrder) -> FineTuning:
        return FineTuning(
            module=self.module,
            algorithm=order.choice.name,
            threshold=self.threshold,
            epochs=order.epochs,
            lr_factor=order.lr_factor,
            evaluate_first=order.initial,
            validate_every_n_epochs=order.validate_every_n_epochs,
            on_epoch=self._report_epoch,
        )

    def _report_epoch(self, epoch: int, accuracy: float, budget: float) -> None:
        result = {"default": accuracy, "accuracy": accuracy, "accuracy_budget": budget, "epoch": epoch}
        self.directory.append_epoch({**result, "time": time.time()})
        self.reporter.report_epoch(result)

    def _measured(
        self, record: TrialRecord, tuned: Tuned, rate: float, before: Measurement, after: Measurement, objective: str
    ) -> TrialRecord:
        measured = dataclasses.replace(
            record,
            state="stopped" if tuned.interrupted else "completed",
            accuracy=tuned.accuracy,
            accuracy_budget=tuned.budget,
            feasible=tuned.budget >= 0,
            compression_rate=rate,
            parameters_removed=1 - after.nonzero_parameters / before.nonzero_parameters,
            macs_removed=1 - after.macs / before.macs if before.macs else 0.0,
            size_removed=1 - after.bytes / before.bytes,
            bytes=after.bytes,
            epochs=tuned.epochs,
            checkpoint=str(self.directory.checkpoint.relative_to(self.experiment.path)),
        )
        reduction = getattr(measured, OBJECTIVES[objective])
        return dataclasses.replace(measured, score=score(reduction, tuned.budget, self.threshold))


def _algorithm_name(parameters: Mapping[str, Any]) -> str:
    chosen = parameters.get("algorithm_name")
    return str(chosen.get("_name")) if isinstance(chosen, Mapping) else "unknown"


def _weights_size(checkpoint: Path) -> int:
    return (checkpoint / "weights.pt").stat().st_size
