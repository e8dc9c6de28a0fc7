"""The training loops: they ask the search what to try, have it run, and write down what came of it. No torch here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from autocompress.argument_checks import checked_arguments
from autocompress.engines.failures import require_hope
from autocompress.engines.local.functions import UserFunctions
from autocompress.engines.local.plans import algorithm_of, searches
from autocompress.engines.local.protocol import Runner
from autocompress.engines.local.recorder import Report, Scalars, Writing
from autocompress.engines.local.statistics import LoopStatistics, statistics_of
from autocompress.engines.opening import open_experiment
from autocompress.engines.preflight import announce
from autocompress.errors import EngineError, InfeasibleBudgetError, StoreError
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan, LocalEngine
from autocompress.records import Proposal, TrialRecord
from autocompress.report.data import story_of
from autocompress.report.format import at_rate, holds
from autocompress.report.verdict import disagreement, findings, headline, infeasible
from autocompress.result import CompressionResult
from autocompress.search import best, proposals
from autocompress.search.cost import longest
from autocompress.store import ExperimentDirectory, Ledger, OpenTrial

_logger = logging.getLogger("autocompress.loop")


class _TrainingLoop:
    """What both loops have in common.

    Args:
        plan: what to do.
        runner: does it.

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
        """Search, and give the best model back: the same object, with its filters removed.

        The arguments are NNCF's; `functions.UserFunctions` tells how each function is called. Each rate begins with
        the same seed, whatever was drawn before; afterwards random numbers go on as if nothing had been drawn.

        Args:
            model: of `create_compressed_model`, which may be wrapped for several devices by now.
            train_epoch_fn: trains one epoch.
            validate_fn: returns the accuracy.
            configure_optimizers_fn: makes an optimizer and a learning-rate scheduler for each rate.
            dump_checkpoint_fn: called besides the loop's own saving, when a rate was left within the budget.
            load_checkpoint_fn: called with what it returned, when that rate's model is loaded again.
            early_stopping_fn: leaves a rate early.
            tensorboard_writer: gets NNCF's scalars.
            log_dir: in which the run's directory is made; by default the configuration's, else `runs`.
            update_learning_rate_fn: called after each epoch instead of the scheduler's step.
            resume: directory of a run that was killed, to go on from there with the same answer.
            preflight: try the functions on the uncompressed model before anything else, unless resumed. Turn it off
                for functions that tell numbers without looking at the model.

        Raises:
            ConfigError: the preflight finds the budget or the uncompressed accuracy to be wrong.
            ModuleError: the preflight finds functions that do not train or evaluate the model.
            InfeasibleBudgetError: nothing stayed within the budget.
            TrialError: nothing but failures so far.
            StoreError: `resume` names no run, or one of another search; or its directory cannot be written.
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
            self._look(model, functions)
        store, leads = self._store(log_dir, resume), self._runner.leads
        self.directory = store.path
        with store.locked() if leads else nullcontext():
            if leads:
                _logger.info("the search is in %s; run(..., resume=%r) goes on with it", store.path, str(store.path))
                self._prepare(store, resumed=resume is not None)
            self._runner.share()
            scalars = Scalars(
                tensorboard_writer if leads else None, self._plan.threshold, self._plan.measured.higher_is_better
            )
            with (
                self._runner.begin(model, functions, store, self._plan),
                self._told(store),
                Writing(store, scalars, leads=leads) as writing,
            ):
                self._search(store, writing)
                self._deliver_best(writing)
        return self._runner.deliver()

    @property
    def result(self) -> CompressionResult:
        """The records and the verdict of the latest run.

        Raises:
            StoreError: there was none.
        """
        if self.directory is None:
            raise StoreError("there is no result before run(...)")
        return CompressionResult(ExperimentDirectory(self.directory))

    @property
    def statistics(self) -> LoopStatistics:
        """What the latest run came to, measured on the model that it gave back.

        Raises:
            StoreError: there was no run.
            InfeasibleBudgetError: nothing stayed within the budget.
        """
        return statistics_of(self.result)

    @property
    def verdict(self) -> str:
        """The latest run in words, also where nothing stayed within the budget.

        Raises:
            StoreError: there was no run.
        """
        story = story_of(self.result.directory)
        return "\n".join([headline(story), *findings(story)])

    def report(self) -> Path:
        """The page and the plots of the latest run that has ended, which a process of their own draws.

        Raises:
            StoreError: there was no such run, or they cannot be written.
        """
        if self._report is None:
            raise StoreError("there is no report before run(...) has ended")
        return self._report.wait()

    def _look(self, model: Any, functions: UserFunctions) -> None:
        """The preflight, whose findings the plan keeps and the log tells."""
        found = self._runner.look(model, functions, self._plan)
        if found is not None:
            baseline = dataclasses.replace(self._plan.measured, preflight=found)
            self._plan = self._plan.with_baseline(baseline, self._plan.engine)
            every = self._plan.settings.validate_every_n_epochs
            planned = searches(self._plan, None)
            announce(self._plan, _logger, longest(planned, [1] * len(planned), every))

    def _store(self, log_dir: str | Path | None, resume: str | Path | None) -> ExperimentDirectory:
        folder = Path(log_dir or self._plan.engine_as(LocalEngine).config["log_dir"] or "runs")
        new = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
        path = self._runner.share(str(new if resume is None else resume))
        assert path is not None
        return ExperimentDirectory(path)

    def _prepare(self, store: ExperimentDirectory, *, resumed: bool) -> None:
        if not resumed:
            store.create()
            store.write_settings(self._plan.to_dict())
            return
        open_experiment(store, self._plan, fingerprint=None, logger=_logger)
        Ledger(store).absorb()

    @contextmanager
    def _told(self, store: ExperimentDirectory) -> Iterator[None]:
        """Tell of the search when it has ended, whatever it found."""
        found: InfeasibleBudgetError | None = None
        try:
            yield
        except InfeasibleBudgetError as error:
            found = error
        if self._runner.leads:
            self._report = Report(store)
            if _logger.isEnabledFor(logging.INFO):
                _logger.info("%s", headline(story_of(store)))
        if found is not None:
            raise found

    def _search(self, store: ExperimentDirectory, writing: Writing) -> None:
        while (proposal := self._next(writing.records)) is not None:
            trial = self._asked(proposal)
            if any(record.key == trial.key for record in writing.records):
                raise EngineError(f"the search asks for trial {trial.key} again, which has been decided")
            writing.propose(trial, proposal)
            if proposal.start_from is not None and not self._runner.holds(proposal.start_from):
                writing.wait()
                self._runner.share()
            outcome = self._runner.run(trial, writing.epochs, writing.release, partial(writing.add_epoch, trial.key))
            _logger.info("%s", _told(outcome.record))
            writing.add(outcome)
            require_hope(writing.records, store)

    def _next(self, records: Sequence[TrialRecord]) -> Proposal | None:
        first = records[0].requested_rate if records else None
        return next(iter(proposals(searches(self._plan, first), records)), None)

    def _asked(self, proposal: Proposal) -> OpenTrial:
        plan = self._plan
        if plan.tuner == ADAPTIVE_TUNER:
            parameters = plan.trial_parameters(proposal)
        else:
            search = {"epochs": proposal.epochs, "initial": True, "lr_factor": 1.0, "start_from": None}
            parameters = {
                "algorithm_name": {"_name": algorithm_of(plan)},
                "search": {**search, "requested_rate": None, **plan.common},
            }
        return OpenTrial(self._runner.key(parameters), parameters, proposal)

    def _deliver_best(self, writing: Writing) -> None:
        """Let the model become that of the best trial which, loaded afresh, still is within the budget."""
        writing.hold()
        verdicts = dict(writing.verdicts)
        while (record := best(each for each in writing.records if holds(each, verdicts.get(each.key)))) is not None:
            writing.wait_for_model(record.key)
            self._runner.share()
            verdict = verdicts[record.key] = self._runner.verify(record, writing.release)
            writing.add_verdict(record.key, verdict)
            if (told := disagreement(record, verdict)) is not None:
                _logger.warning("%s %s", at_rate(record.algorithm, record.requested_rate), told)
            if verdict.feasible:
                return
        writing.wait()
        higher = self._plan.measured.higher_is_better
        raise infeasible(writing.records, verdicts, self._plan.threshold, higher_is_better=higher)


class AdaptiveCompressionTrainingLoop(_TrainingLoop):
    """Searches the highest compression rate within the accuracy budget: `adaptive_compression_level`."""


class EarlyExitCompressionTrainingLoop(_TrainingLoop):
    """Trains along the schedule until the accuracy is within the budget: `early_exit`."""


def _told(record: TrialRecord) -> str:
    rate = "" if record.requested_rate is None else f" at rate {record.requested_rate:g}"
    if record.accuracy is None:
        return f"{record.algorithm}{rate}: {record.error}"
    side = "within" if record.feasible else "outside"
    return f"{record.algorithm}{rate}: accuracy {record.accuracy:g}, {side} the budget after {record.epochs} epochs"
