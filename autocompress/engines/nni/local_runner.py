"""NNI's tuners without NNI's manager: one trial after the other, each in its own process."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, require_options
from autocompress.engines.nni.builtin_tuners import require_tuner
from autocompress.engines.nni.lifecycle import create_algorithms
from autocompress.engines.nni.manager import Machines
from autocompress.engines.nni.wire_format import flattened
from autocompress.engines.start import announce, length_of, open_experiment
from autocompress.errors import ConfigError, command
from autocompress.plan import ADAPTIVE_TUNER, BuiltinTunerPlan, ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.ledger import WITHOUT_RESULT
from autocompress.tracking import Callback, notify_callbacks
from autocompress.trial.child import end_orphan, measure_in_child
from autocompress.trial.forkserver import fork_server
from autocompress.trial.process import ProcessEnd, Starter, TrialProcess

_logger = logging.getLogger("nni.autocompress")


def run_tuner(plan: ExperimentPlan, store: ExperimentDirectory, trials: int | None, start: Starter) -> None:
    """Let a tuner choose `trials` trials in all (None: until it ends), and run them; those in the directory count."""
    ledger = Ledger(store)
    ledger.settle_ended()
    run = _Run(plan, ledger, start)
    run.import_finished()
    for parameter_id in itertools.count(len(ledger.records)):
        if trials is not None and parameter_id >= trials:
            return
        if not run.one(parameter_id):
            return


@dataclass
class TunerSearch:
    """A search by a tuner of NNI or ours, without a web page. Implements `base.Search`."""

    plan: ExperimentPlan  # with its baseline
    directory: Path  # where it is kept
    trials: int | None  # the most trials in all; None for as many as it takes
    _started: bool = field(default=False, init=False)

    @property
    def url(self) -> str | None:
        """Empty once it has started: it has no page."""
        return "" if self._started else None

    @property
    def result(self) -> CompressionResult:
        """What has been found so far."""
        return CompressionResult(ExperimentDirectory(self.directory))

    def run(self, callbacks: Sequence[Callback] = ()) -> bool:
        """Run to its end; Ctrl-C is raised."""
        store = ExperimentDirectory(self.directory)
        with store.locked(), notify_callbacks(store, callbacks) as tell_end:
            if not store.exists():
                store.create()
                store.write_settings(self.plan.to_dict())
            self._started = True
            source = ModuleReference.from_dict(self.plan.module).fingerprint()
            open_experiment(store, self.plan, fingerprint=source, logger=_logger)
            run_tuner(self.plan, store, self.trials, fork_server())
            self.result.verify()
            tell_end()
        return True

    def stop(self) -> None:
        """Nothing to stop."""


class TunerEngine:
    """NNI's tuners and ours, in this process; trials are processes of their own. Implements `base.Engine`."""

    name = "nni-tuner"
    logger, framework_logger = "nni.autocompress", "nni"
    create_options: tuple[str, ...] = ()
    open_options: tuple[str, ...] = ()

    def create(self, request: SearchRequest) -> TunerSearch:
        """A new search; the uncompressed model is measured unless the request has it."""
        require_options(self, self.create_options, request.options)
        if request.concurrency != 1:
            raise ConfigError(f"concurrency must be 1 on the engine 'nni-tuner'; got {request.concurrency}")
        tuner = ADAPTIVE_TUNER if request.tuner is None else require_tuner(request.tuner)
        plan = request.plan(tuner, BuiltinTunerPlan())
        _require_end(plan, request.trials)
        baseline = request.baseline or measure_in_child(
            plan.module, plan.search_space, request.directory, plan.settings, confirmed=request.confirmed
        )
        plan = plan.with_baseline(baseline, plan.engine)
        if request.baseline is None:
            announce(plan, _logger, length_of(plan, request.trials))
        return TunerSearch(plan, request.directory, request.trials)

    def open(self, directory: Path, *, trials: int | None = None, **options: Any) -> TunerSearch:
        """Resume the search in a directory."""
        require_options(self, self.open_options, options)
        store = ExperimentDirectory(directory)
        plan = ExperimentPlan.read(store)
        plan.engine_as(BuiltinTunerPlan)
        _require_end(plan, trials)
        return TunerSearch(plan, directory, None if trials is None else len(Ledger(store).records) + trials)

    def show(self, directory: Path, **options: Any) -> str:
        """The command that writes its report, as it has no page."""
        require_options(self, (), options)
        return command("autocompress", "report", directory)

    def owners(self, plan: ExperimentPlan, directory: Path) -> list[str]:  # noqa: ARG002 - as the protocol has it
        """None are recorded."""
        return []


ENGINE = TunerEngine()


def _require_end(plan: ExperimentPlan, trials: int | None) -> None:
    if trials is None and not plan.ends_by_itself:
        raise ConfigError(f"trials must be given, as {plan.tuner} does not end by itself")


class _Run:
    def __init__(self, plan: ExperimentPlan, ledger: Ledger, start: Starter) -> None:
        self._ledger, self._start = ledger, start
        self._finished, self._seconds = False, plan.settings.maximal_trial_seconds
        self._algorithms = create_algorithms(plan, ledger, self._finish, Machines(ledger.directory))
        self._tuner = self._algorithms.tuner
        self._tuner.update_search_space(flattened(plan.search_space))

    def _finish(self) -> None:
        self._finished = True

    def import_finished(self) -> None:
        """Let the tuner learn from trials before an interruption."""
        known = [record for record in self._ledger.records if record.score is not None]
        if known:
            self._tuner.import_data([{"parameter": each.parameters, "value": each.score} for each in known])

    def one(self, parameter_id: int) -> bool:
        """Run the tuner's next trial; False where there is none."""
        sent: list[dict[str, Any]] = []
        sent += self._tuner.generate_multiple_parameters(
            [parameter_id], st_callback=lambda _, parameters: sent.append(parameters)
        )
        if not sent or self._finished:
            return False
        record = self._ran(parameter_id, sent[0])
        if record is not None and record.score is not None:
            self._tuner.receive_trial_result(parameter_id, sent[0], record.score)
        self._tuner.trial_end(parameter_id, record is not None and record.error is None)
        return not self._finished

    def _ran(self, parameter_id: int, parameters: dict[str, Any]) -> TrialRecord | None:
        key, store, noted = self._algorithms.trials.key(parameters), self._ledger.directory, self._algorithms.trials
        end_orphan(store.trial(key), _logger)
        end = _run(TrialProcess(store, key, parameters, self._start, self._seconds))
        if end.killed is not None:
            noted.note_kill(parameter_id, end.killed)
        else:
            noted.note_crash(parameter_id, end.crash or WITHOUT_RESULT)
        return store.trial(key).record()


def _run(process: TrialProcess) -> ProcessEnd:
    try:
        for _ in process.results():
            pass
        return process.wait()
    except BaseException:
        process.end()
        raise
