"""A user's module searched in this process, trials included: no server, no other process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.compression.module import ModuleClass
from autocompress.compression.module_loading import AnyReference, LiveReference, ModuleReference
from autocompress.engines.base import SearchRequest, check_failures, require_options
from autocompress.engines.start import announce, length_of, open_experiment
from autocompress.errors import ConfigError, command
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan, LocalPlan
from autocompress.records import Proposal, TrialRecord
from autocompress.result import CompressionResult
from autocompress.search.noise import AccuracyNoise
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial
from autocompress.store.directory import removed_if_unused, require_writable
from autocompress.tracking import Callback, notify_callbacks
from autocompress.trial.child import end_orphan, refuse_in_child
from autocompress.trial.run import run_trial
from autocompress.trial.spec import preserved_rng_state, trial_key
from autocompress.trial.tasks import measure_baseline, verified

_logger = logging.getLogger("autocompress.local")


@dataclass
class LocalSearch:
    """A search in this process. Implements `base.Search`.

    The state of all random number generators is restored afterwards.

    Attributes:
        plan: of the search; a new one may be without a baseline.
        directory: where it is kept.
        trials: the most trials in all; None for as many as it takes.
        confirmed: whether an unusual budget is only warned of.
        reference: the module; None: as the plan names it.
    """

    plan: ExperimentPlan
    directory: Path
    trials: int | None = None
    confirmed: bool = True
    reference: AnyReference | None = None
    _started: bool = field(default=False, init=False)
    _stopping: bool = field(default=False, init=False)

    @property
    def url(self) -> str | None:
        """It has no page: empty once it has started."""
        return "" if self._started else None

    @property
    def result(self) -> CompressionResult:
        """The records so far; the module may be run, as this process runs the search."""
        return CompressionResult(self.directory, self._reference if self._started else None)

    @property
    def _reference(self) -> AnyReference:
        return self.reference or ModuleReference.from_dict(self.plan.module)

    def stop(self) -> None:
        """End the search after the trial that is running."""
        self._stopping = True

    def run(self, callbacks: Sequence[Callback] = ()) -> bool:
        """Run to the end, and verify the best model; False after `stop`, or where a trial was interrupted."""
        refuse_in_child("a search must not be run")
        store, reference = ExperimentDirectory(self.directory), self._reference
        with reference.on_path(), preserved_rng_state():
            module = reference.in_memory() or reference.load()
            with contextlib.ExitStack() as held:
                with removed_if_unused(store.path):
                    held.enter_context(store.locked())
                    if not store.exists():
                        self._create(store, module)
                self._started = True
                tell_end = held.enter_context(notify_callbacks(store, callbacks))
                plan = open_experiment(store, self.plan, fingerprint=reference.fingerprint(), logger=_logger)
                if isinstance(reference, LiveReference):
                    reference.require_same_model(plan.module, store.path)
                if not self._search(plan, store, module):
                    return False
                order = {"threshold": plan.threshold, "directory": store.path}
                self.result.verify(lambda checkpoint: verified(module, {**order, "checkpoint": checkpoint}))
                tell_end()
        return True

    def _create(self, store: ExperimentDirectory, module: ModuleClass) -> None:
        """Measure the uncompressed model before anything is written."""
        plan = self.plan
        if plan.baseline is None:
            require_writable(store.path)
            baseline = measure_baseline(
                module,
                plan.space,
                plan.settings,
                confirmed=self.confirmed,
                reference=self._reference,
            )
            plan = plan.with_baseline(baseline, plan.engine)
            announce(plan, _logger, length_of(plan, self.trials))
        store.create()
        store.write_settings(plan.to_dict())

    def _search(self, plan: ExperimentPlan, store: ExperimentDirectory, module: ModuleClass) -> bool:
        """Run trials until the search, or its number of trials, has ended; False where it was stopped before."""
        ledger = Ledger(store)
        ledger.settle_ended()
        while waiting := plan.proposals(ledger.records):
            if self.trials is not None and len(ledger.records) >= self.trials:
                return True
            record = None if self._stopping else _run(plan, ledger, module, waiting[0])
            if record is None or record.state == "stopped":  # which is trained again when the search goes on
                return False
            ledger.add(record)
            check_failures(ledger.records, store)
        return True


def _run(plan: ExperimentPlan, ledger: Ledger, module: ModuleClass, proposal: Proposal) -> TrialRecord:
    parameters, fingerprint = plan.trial_parameters(proposal), plan.measured.fingerprint
    key = trial_key(fingerprint, parameters, plan.threshold)
    ledger.propose(PendingTrial(key, parameters, proposal))
    end_orphan(ledger.directory.trial(key), _logger)
    return run_trial(
        module,
        parameters,
        threshold=plan.threshold,
        directory=ledger.directory.path,
        fingerprint=fingerprint,
        noise=AccuracyNoise.of(plan.measured, plan.settings.budget),
    )


class LocalEngine:
    """This process. Implements `base.Engine`."""

    name = "local"
    logger, framework_logger = "autocompress.local", "torch"
    create_options: tuple[str, ...] = ()
    open_options: tuple[str, ...] = ()

    def create(self, request: SearchRequest) -> LocalSearch:
        """A new search, or one to go on with where the directory has the same.

        Raises:
            ConfigError: the request needs other processes or another tuner.
        """
        require_options(self, self.create_options, request.options)
        _require(request)
        plan = request.plan(ADAPTIVE_TUNER, LocalPlan())
        return LocalSearch(plan, request.directory, request.trials, request.confirmed, request.module)

    def open(self, directory: Path, *, trials: int | None = None, **options: Any) -> LocalSearch:
        """The search in a directory, to go on with."""
        require_options(self, self.open_options, options)
        store = ExperimentDirectory(directory)
        plan = ExperimentPlan.read(store)
        plan.engine_as(LocalPlan)
        return LocalSearch(plan, directory, None if trials is None else len(Ledger(store).records) + trials)

    def show(self, directory: Path, **options: Any) -> str:
        """The command that writes its report, as it has no page."""
        require_options(self, (), options)
        return command("autocompress", "report", directory)

    def owners(self, plan: ExperimentPlan, directory: Path) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """None: the owner of the directory's lock runs its trials."""
        return []


ENGINE = LocalEngine()


def _require(request: SearchRequest) -> None:
    if request.tuner is not None and request.tuner.lower() != ADAPTIVE_TUNER.lower():
        raise ConfigError(f"tuner must be {ADAPTIVE_TUNER} on the engine 'local'; got {request.tuner!r}")
    if request.concurrency != 1:
        raise ConfigError(
            f"concurrency must be 1 on the engine 'local', which has one process; got {request.concurrency}"
        )
    if request.settings.maximal_trial_seconds is not None:
        raise ConfigError(
            "maximal_trial_seconds must be null on the engine 'local': a trial in this process cannot be ended; got "
            f"{request.settings.maximal_trial_seconds:g}"
        )
