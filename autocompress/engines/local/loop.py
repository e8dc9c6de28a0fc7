"""The training loops: propose a rate, run its trial, record the result. What needs torch is in `runner`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autocompress.argument_checks import checked_arguments
from autocompress.engines.base import check_failures
from autocompress.engines.local.functions import UserFunctions
from autocompress.engines.local.recorder import LoopStatistics, Outcome, Recorder, Report, Scalars, statistics_of
from autocompress.engines.start import announce, length_of, open_experiment, require_same
from autocompress.errors import EngineError, InfeasibleBudgetError, StoreError
from autocompress.plan import ExperimentPlan, LoopPlan
from autocompress.records import Preflight, TrialRecord
from autocompress.report.data import read_report_data
from autocompress.report.diagnosis import infeasible
from autocompress.report.verdict import at_rate, disagreement, findings, headline, holds, trial_line
from autocompress.result import CompressionResult
from autocompress.search import best
from autocompress.search.noise import with_accuracy_error
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial, Verdict
from autocompress.tracking.callback import say

if TYPE_CHECKING:
    from autocompress.compression.measure import ReferenceModel

_logger = logging.getLogger("autocompress.loop")


class Runner(Protocol):
    """Trains, compresses and saves: what of a loop depends on torch."""

    @property
    def leads(self) -> bool:
        """Whether this process writes: one of those that train together does."""
        ...

    @property
    def source(self) -> ReferenceModel:
        """The uncompressed model, for results."""
        ...

    def share(self, value: str | None = None) -> str | None:
        """The leading process' value; a barrier for all processes."""
        ...

    def begin(
        self, model: Any, functions: UserFunctions, store: ExperimentDirectory, plan: ExperimentPlan
    ) -> AbstractContextManager[None]:
        """Prepare for the trials that run inside the block."""
        ...

    def check(self, model: Any, functions: UserFunctions, plan: ExperimentPlan) -> Preflight | None:
        """Run the preflight; None where several processes train together."""
        ...

    def key(self, parameters: dict[str, Any]) -> str:
        """The key of a trial."""
        ...

    def run(
        self,
        trial: PendingTrial,
        epochs_before: int,
        on_training: Callable[[], None],
        on_epoch: Callable[[dict[str, Any]], None],
    ) -> Outcome:
        """Run a trial; the outcome saves it.

        Args:
            trial: its parameters.
            epochs_before: of all trials before this one.
            on_training: called when the model has been compressed.
            on_epoch: called with each evaluation, as the learning curve has it.
        """
        ...

    def holds(self, key: str) -> bool:
        """Whether a trial can start from that one without reading its files."""
        ...

    def verify(self, record: TrialRecord, on_validation: Callable[[], None]) -> Verdict:
        """Load a trial's checkpoint into the model and validate it; `on_validation` is called in between."""
        ...

    def deliver(self) -> Any:
        """The model as the user gave it."""
        ...


class _TrainingLoop:
    """What both loops have in common.

    Attributes:
        directory: of the latest run; None before it.
    """

    def __init__(self, plan: ExperimentPlan, runner: Runner) -> None:
        self._plan, self._runner = plan, runner
        self.directory: Path | None = None
        self._report: Report | None = None

    @checked_arguments
    def run(
        self,
        model: Any,
        train_epoch_fn: Callable[..., Any],
        validate_fn: Callable[..., Any],
        configure_optimizers_fn: Callable[[], Any] | None = None,
        dump_checkpoint_fn: Callable[..., Any] | None = None,
        load_checkpoint_fn: Callable[..., Any] | None = None,
        early_stopping_fn: Callable[[float], bool] | None = None,
        tensorboard_writer: Any = None,
        log_dir: str | Path | None = None,
        update_learning_rate_fn: Callable[..., Any] | None = None,
        *,
        resume: str | Path | None = None,
        preflight: bool = True,
    ) -> Any:
        """Search, and return the best model: the same object, with its filters removed.

        The arguments are NNCF's; `functions.UserFunctions` documents how each is called. Each trial begins with the
        same seed; the state of all random number generators is restored afterwards.

        Args:
            model: from `create_compressed_model`, possibly wrapped for several devices since.
            train_epoch_fn: trains one epoch.
            validate_fn: returns the accuracy, or one value for each sample (a 1-D tensor, array or list) whose mean it
                is: trials are then compared with the uncompressed model sample by sample.
            configure_optimizers_fn: returns an optimizer and a learning-rate scheduler, new for each trial.
            dump_checkpoint_fn: called when a trial has ended within the budget, beside the loop's own checkpoint.
            load_checkpoint_fn: called with what `dump_checkpoint_fn` returned when that trial's model is loaded.
            early_stopping_fn: ends a trial early.
            tensorboard_writer: receives NNCF's scalars.
            log_dir: parent of the run's directory; by default the configuration's `log_dir`, else `runs`.
            update_learning_rate_fn: called after each epoch instead of the scheduler's step.
            resume: directory of an interrupted run, which is continued with the same result.
            preflight: check the functions on the uncompressed model first, unless resuming. Turn it off for functions
                whose results do not depend on the model.

        Raises:
            ConfigError: the budget or the uncompressed accuracy is wrong.
            ModuleError: the functions do not train or evaluate the model.
            InfeasibleBudgetError: no trial stayed within the budget.
            TrialError: all trials so far have failed.
            StoreError: `resume` is not a run, or is one of another search; or its directory cannot be written.
        """
        functions = UserFunctions(
            train_epoch_fn,
            validate_fn,
            configure_optimizers_fn,
            dump_checkpoint_fn,
            load_checkpoint_fn,
            early_stopping_fn,
            update_learning_rate_fn,
        )
        settings = self._plan.settings.with_changes({"preflight": preflight})
        self._plan = dataclasses.replace(self._plan, settings=settings)
        if settings.preflight and resume is None:
            self._check(model, functions)
        store, leads = self._store(log_dir, resume), self._runner.leads
        self.directory = store.path
        with store.locked() if leads else nullcontext():
            if leads:
                say(f"the search is in {store.path}; run(..., resume={str(store.path)!r}) goes on with it")
                self._prepare(store, resumed=resume is not None)
            self._runner.share()
            scalars = Scalars(
                tensorboard_writer if leads else None, self._plan.threshold, self._plan.measured.higher_is_better
            )
            with (
                self._runner.begin(model, functions, store, self._plan),
                self._reported(store),
                Recorder(store, scalars, leads=leads) as recorder,
            ):
                self._search(store, recorder)
                self._load_best(recorder)
        return self._runner.deliver()

    @property
    def result(self) -> CompressionResult:
        """The records of the latest run; its `load_model()` and `export(path)` need no further arguments.

        Raises:
            StoreError: there was none.
        """
        if self.directory is None:
            raise StoreError("there is no result before run(...)")
        return CompressionResult(self.directory, source=self._runner.source)

    @property
    def statistics(self) -> LoopStatistics:
        """Figures of the latest run, measured on the model that it returned.

        Raises:
            StoreError: there was no run.
            InfeasibleBudgetError: no trial stayed within the budget.
        """
        return statistics_of(self.result)

    @property
    def verdict(self) -> str:
        """The latest run in words, also where no trial stayed within the budget.

        Raises:
            StoreError: there was no run.
        """
        data = read_report_data(self.result.directory)
        return "\n".join([headline(data), *findings(data)])

    def report(self) -> Path:
        """Path of the HTML report of the latest finished run, which another process writes.

        Raises:
            StoreError: there was no such run, or the report cannot be written.
        """
        if self._report is None:
            raise StoreError("there is no report before run(...) has ended")
        return self._report.wait()

    def _check(self, model: Any, functions: UserFunctions) -> None:
        """Run the preflight: the plan keeps its result, the log reports it."""
        found = self._runner.check(model, functions, self._plan)
        if found is not None:
            baseline = dataclasses.replace(self._plan.measured, preflight=found)
            baseline = with_accuracy_error(baseline, self._plan.settings.budget)
            self._plan = self._plan.with_baseline(baseline, self._plan.engine)
            announce(self._plan, _logger, length_of(self._plan))

    def _store(self, log_dir: str | Path | None, resume: str | Path | None) -> ExperimentDirectory:
        folder = Path(log_dir or self._plan.engine_as(LoopPlan).config["log_dir"] or "runs")
        new = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        path = self._runner.share(str(new if resume is None else resume))
        assert path is not None
        return ExperimentDirectory(path)

    def _prepare(self, store: ExperimentDirectory, *, resumed: bool) -> None:
        if not resumed:
            store.create()
            store.write_settings(self._plan.to_dict())
            return
        plan = open_experiment(store, self._plan, fingerprint=None, logger=_logger)
        known, wanted = (_fixed(each) for each in (plan, self._plan))
        require_same(f"the run in {store.path}", "search", known, wanted)
        self._plan = self._plan.with_baseline(plan.measured, self._plan.engine)  # with what the preflight found
        Ledger(store).settle_ended()

    @contextmanager
    def _reported(self, store: ExperimentDirectory) -> Iterator[None]:
        """Write the report and log the verdict when the search has ended, also without a feasible trial."""
        found: InfeasibleBudgetError | None = None
        try:
            yield
        except InfeasibleBudgetError as error:
            found = error
        if self._runner.leads:
            self._report = Report(store)
            say(headline(read_report_data(store)))
        if found is not None:
            raise found

    def _search(self, store: ExperimentDirectory, recorder: Recorder) -> None:
        while waiting := self._plan.proposals(recorder.records):
            proposal = waiting[0]
            parameters = self._plan.trial_parameters(proposal)
            trial = PendingTrial(self._runner.key(parameters), parameters, proposal)
            if any(record.key == trial.key for record in recorder.records):
                raise EngineError(f"the search proposes trial {trial.key} again, which has ended")
            recorder.propose(trial, proposal)
            if proposal.start_from is not None and not self._runner.holds(proposal.start_from):
                recorder.wait()
                self._runner.share()
            outcome = self._runner.run(trial, recorder.epochs, recorder.release, partial(recorder.add_epoch, trial.key))
            recorder.add(outcome)
            if self._runner.leads:
                say(trial_line(outcome.record, len(recorder.records)))
            check_failures(recorder.records, store)

    def _load_best(self, recorder: Recorder) -> None:
        """Load the best trial whose checkpoint still is within the budget when it is read from its files."""
        recorder.hold()
        verdicts = dict(recorder.verdicts)
        while (record := best(each for each in recorder.records if holds(each, verdicts.get(each.key)))) is not None:
            recorder.wait_for_model(record.key)
            self._runner.share()
            verdict = verdicts[record.key] = self._runner.verify(record, recorder.release)
            recorder.add_verdict(record.key, verdict)
            if (message := disagreement(record, verdict)) is not None:
                _logger.warning("%s %s", at_rate(record.algorithm, record.requested_rate), message)
            if verdict.feasible:
                return
        recorder.wait()
        raise infeasible(self._plan, recorder.records, verdicts, self.result.directory)


class AdaptiveCompressionTrainingLoop(_TrainingLoop):
    """Searches the highest compression rate within the accuracy budget: NNCF's mode `adaptive_compression_level`."""


class EarlyExitCompressionTrainingLoop(_TrainingLoop):
    """Trains along the schedule until the accuracy is within the budget: NNCF's mode `early_exit`."""


def _fixed(plan: ExperimentPlan) -> dict[str, Any]:
    """What a loop that is resumed must have in common, beside the search."""
    config = {name: value for name, value in plan.engine_as(LoopPlan).config.items() if name != "log_dir"}
    return {"configuration": config, "uncompressed model": plan.measured.fingerprint}
