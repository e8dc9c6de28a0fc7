"""Runs the trials of a training loop on the user's model, also where processes train it together."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from autocompress.budget import accuracy_margin
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model, device_of
from autocompress.engines.local.functions import UserFunctions
from autocompress.engines.local.preflight import check
from autocompress.engines.local.recorder import Outcome
from autocompress.engines.local.training import FunctionTraining, TrainedTrial
from autocompress.errors import CompressionError, ModuleError, StoreError
from autocompress.evaluation import Evaluation
from autocompress.formats.checkpoint import load_compressed
from autocompress.nncf.compressed_model import ModelSnapshot
from autocompress.nncf.controller import CompressionController
from autocompress.plan import ExperimentPlan
from autocompress.records import Preflight, TrialRecord
from autocompress.search import score
from autocompress.search.noise import AccuracyNoise
from autocompress.search_space import requested_rate
from autocompress.store import ExperimentDirectory, PendingTrial, TrialDirectory, Verdict
from autocompress.trial.baseline import MarginErrors
from autocompress.trial.fine_tuning import FineTuning, FineTuningResult
from autocompress.trial.spec import preserved_rng_state, seed_everything, trial_key

_T = TypeVar("_T")

_NAMES = ("forward_sync_buffers", "broadcast_buffers")  # newer releases of torch call it by the first
_SYNC_BUFFERS = next(name for name in _NAMES if name in inspect.signature(DistributedDataParallel.__init__).parameters)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model.module if isinstance(model, DataParallel | DistributedDataParallel) else model


def rewrapped(model: nn.Module) -> nn.Module:
    """The same wrapper around the model as it is now, whose parameters may be others."""
    if not isinstance(model, DistributedDataParallel):
        return model
    settings: dict[str, Any] = {
        "device_ids": model.device_ids,
        "output_device": model.output_device,
        "dim": model.dim,
        "process_group": model.process_group,
        "find_unused_parameters": model.find_unused_parameters,
        "gradient_as_bucket_view": model.gradient_as_bucket_view,
        "static_graph": model.static_graph,
        _SYNC_BUFFERS: getattr(model, _SYNC_BUFFERS, True),
    }
    return DistributedDataParallel(model.module, **settings)


def shared(value: _T) -> _T:
    """The first process' value, where several train together: all must decide alike, and come here together."""
    if not together():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return torch.distributed.get_rank() if together() else 0


def together() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


_USERS = "user_checkpoint.json"


class TorchRunner:
    """Implements `loop.Runner` in this process, on the user's own model object.

    Args:
        controller: of the model.
        masked: whether filters are masked between trials, not removed.
    """

    def __init__(self, controller: CompressionController, *, masked: bool) -> None:
        self._controller, self._masked = controller, masked
        self._kept: tuple[str, ModelSnapshot] | None = None
        self._standing: str | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes."""
        return rank() == 0

    @property
    def source(self) -> ReferenceModel:
        """The uncompressed model."""
        return self._controller.uncompressed

    def share(self, value: str | None = None) -> str | None:
        """The leading process' value."""
        return shared(value)

    def check(self, model: nn.Module, functions: UserFunctions, plan: ExperimentPlan) -> Preflight | None:
        """Run the preflight.

        Raises:
            AutoCompressError: as `preflight.check`; the model is not the controller's.
        """
        self._require_own(model)
        return None if together() else check(self._controller, model, functions, plan)

    @contextlib.contextmanager
    def begin(
        self,
        model: nn.Module,
        functions: UserFunctions,
        store: ExperimentDirectory,
        plan: ExperimentPlan,
    ) -> Iterator[None]:
        """Prepare for the trials that run inside the block.

        Raises:
            StoreError: the model is not the controller's.
        """
        self._require_own(model)
        self._model, self._functions, self._store, self._plan = model, functions, store, plan
        self._pretrained, self._kept, self._standing = self._controller.compressed.plain(), None, None
        with preserved_rng_state():
            yield

    def key(self, parameters: dict[str, Any]) -> str:
        """The key of a trial."""
        return trial_key(self._plan.measured.fingerprint, parameters, self._plan.threshold)

    def holds(self, key: str) -> bool:
        """Whether that trial's model is in memory."""
        return self._kept is not None and self._kept[0] == key and self._functions.load_checkpoint is None

    def run(
        self,
        trial: PendingTrial,
        epochs_before: int,
        on_training: Callable[[], None],
        on_epoch: Callable[[dict[str, Any]], None],
    ) -> Outcome:
        """Run a trial; it fails with errors of the model at this rate, all others are raised."""
        started, search = time.monotonic(), trial.parameters["search"]
        record = TrialRecord(
            key=trial.key,
            algorithm=trial.parameters["algorithm_name"]["_name"],
            state="failed",
            parameters=trial.parameters,
            requested_rate=requested_rate(trial.parameters),
            lr_factor=search["lr_factor"],
            seed=search["seed"],
            start_from=search["start_from"],
        )
        directory = self._store.trial(trial.key)
        if self.leads:
            directory.clear()
        seed_everything(search["seed"] + rank())
        snapshot: ModelSnapshot | None = None
        try:
            if not search["initial"]:
                self._start(search, requested_rate(trial.parameters))
            on_training()
            tuned = self._trained(search, epochs_before, on_epoch)
            fields, snapshot = self._outcome(tuned, directory)
            self._standing = trial.key if self._may_go_on(tuned, search) else None
        except (CompressionError, ModuleError) as error:
            fields = {"error": f"{type(error).__name__}: {error}"}
        record = dataclasses.replace(record, **fields, seconds=round(time.monotonic() - started, 3))
        return TrainedTrial(record, directory, self._controller.uncompressed, snapshot)

    def verify(self, record: TrialRecord, on_validation: Callable[[], None]) -> Verdict:
        """Load a trial's checkpoint into the model and validate it."""
        self._controller.settle(self._restored(record), record.requested_rate)
        self._model = rewrapped(self._model)
        self._controller.model.eval()
        on_validation()
        accuracy = shared(self._functions.evaluate(self._model, 0).accuracy)
        return Verdict(accuracy, None, self._budget(accuracy) >= 0)

    def deliver(self) -> nn.Module:
        """The model as the user gave it."""
        return self._model

    def _require_own(self, model: nn.Module) -> None:
        if unwrapped(model) is not self._controller.model:
            raise StoreError("run must be given the model of create_compressed_model, or that model wrapped")

    def _trained(
        self, search: dict[str, Any], epochs_before: int, on_epoch: Callable[[dict[str, Any]], None]
    ) -> FineTuningResult:
        errors = self._errors()
        training = FunctionTraining(
            self._functions,
            self._controller,
            self._model,
            search["lr_factor"],
            self._plan.measured.higher_is_better,
            epochs_before,
            errors.accuracy,
            shared,
        )

        def report(epoch: int, accuracy: float, budget: float) -> None:
            result = {"default": accuracy, "accuracy": accuracy, "accuracy_margin": budget, "epoch": epoch}
            on_epoch({**result, "time": time.time()})

        tuned = FineTuning(
            training=training,
            threshold=self._plan.threshold,
            epochs=search["epochs"],
            evaluate_first=search["initial"] or search.get("validate_before_training", False),
            validate_every_n_epochs=search["validate_every_n_epochs"],
            on_epoch=report,
            margin_error=lambda: shared(errors.latest),
        ).run(self._controller.model)
        if tuned.interrupted:
            raise KeyboardInterrupt
        return tuned

    def _errors(self) -> MarginErrors:
        def evaluate_uncompressed() -> Evaluation:
            original = copy_model(self.source.original).to(device_of(self._controller.model)).eval()
            with preserved_rng_state():
                seed_everything(0)
                return self._functions.evaluate(original, 0)

        noise = AccuracyNoise.of(self._plan.measured, self._plan.settings.budget)
        # Processes that train together may need each other to validate, and have one model.
        evaluate = None if together() else evaluate_uncompressed
        return MarginErrors(noise, self._store, self._plan.measured.fingerprint, evaluate)

    def _may_go_on(self, tuned: FineTuningResult, search: dict[str, Any]) -> bool:
        """Whether the next trial may start from the model as it is, without a copy."""
        users = self._functions.dump_checkpoint or self._functions.load_checkpoint  # they may have changed it
        return tuned.budget >= 0 and not search["initial"] and not self._masked and users is None

    def _start(self, search: dict[str, Any], rate: float | None) -> None:
        key, standing, self._standing = search["start_from"], self._standing, None
        start: nn.Module | None = None
        if key is None:
            start = copy_model(self._pretrained)
        elif key != standing:
            start = self._start_of(key)
        self._controller.start_from(
            start,
            rate,
            removed=not self._masked,
            evaluated=search.get("validate_before_training", False),
        )
        self._model = rewrapped(self._model)

    def _start_of(self, key: str) -> nn.Module:
        if not self._is_users(key):
            return self._plain_start(key)
        record = self._store.trial(key).record()
        return self._loaded_by_user(key, None if record is None else record.requested_rate)

    def _restored(self, record: TrialRecord) -> nn.Module:
        """The finished model of a trial."""
        if self._is_users(record.key):
            self._loaded_by_user(record.key, record.requested_rate)
            return self._controller.strip()
        return load_compressed(self._store.trial(record.key).checkpoint, self._controller.uncompressed.original)

    def _is_users(self, key: str) -> bool:
        """Whether the user saved the trial's model and can load it."""
        return self._functions.load_checkpoint is not None and (self._store.trial(key).path / _USERS).exists()

    def _plain_start(self, key: str) -> nn.Module:
        """The model of a trial, as later trials start from it."""
        if self._kept is not None and self._kept[0] == key:
            return copy_model(self._kept[1].start)
        trial = self._store.trial(key)
        path = trial.pruned if trial.pruned.exists() else trial.checkpoint
        return load_compressed(path, self._controller.uncompressed.original)

    def _loaded_by_user(self, key: str, rate: float | None) -> nn.Module:
        """Give the model the structure it had when the user saved it, and let the user load it; its plain weights."""
        assert self._functions.load_checkpoint is not None
        self._controller.start_from(self._plain_start(key), rate, removed=not self._masked)
        self._model = rewrapped(self._model)
        self._functions.load_checkpoint(self._model, json.loads((self._store.trial(key).path / _USERS).read_text()))
        return self._controller.compressed.plain()

    def _outcome(self, tuned: FineTuningResult, directory: TrialDirectory) -> tuple[dict[str, Any], ModelSnapshot]:
        """The fields of the record that the search needs, and the model."""
        controller = self._controller
        snapshot, budget = controller.compressed.snapshot(plain=self._masked), self._budget(tuned.accuracy)
        if budget >= 0:
            self._kept = (directory.path.name, snapshot)
        self._dump(tuned, directory)
        fields = {
            "state": "completed",
            "requested_rate": controller.level,
            "accuracy": tuned.accuracy,
            "accuracy_margin": budget,
            "accuracy_error": tuned.error,
            "feasible": budget >= 0,
            "score": score(snapshot.rate, budget, self._plan.threshold),
            "achieved_rate": snapshot.rate,
            "simulated": controller.quantizes,
            "epochs": tuned.epochs,
            "checkpoint": str(directory.checkpoint.relative_to(self._store.path)),
            "left_alone": controller.left_alone,
        }
        return fields, snapshot

    def _dump(self, tuned: FineTuningResult, directory: TrialDirectory) -> None:
        dump = self._functions.dump_checkpoint
        if dump is None or tuned.budget < 0:
            return
        answer = dump(self._model, self._controller, self, str(self._store.path))
        if isinstance(answer, str | Path) and self.leads:
            directory.path.mkdir(parents=True, exist_ok=True)
            (directory.path / _USERS).write_text(json.dumps(str(answer)))

    def _budget(self, accuracy: float) -> float:
        higher = self._plan.measured.higher_is_better
        return accuracy_margin(accuracy, self._plan.threshold, higher_is_better=higher)
