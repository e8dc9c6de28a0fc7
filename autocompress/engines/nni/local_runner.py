"""NNI's tuners without NNI's manager: one trial after the other, each in a process of its own."""

from __future__ import annotations

from typing import Any

from autocompress.engines.nni.lifecycle import create_algorithms
from autocompress.engines.nni.remote import Machines
from autocompress.engines.nni.wire_format import flattened
from autocompress.plan import ExperimentPlan
from autocompress.records import TrialRecord
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.trial.process import End, Starter, TrialProcess


def drive(plan: ExperimentPlan, store: ExperimentDirectory, trials: int, start: Starter) -> None:
    """Let one of NNI's tuners choose so many trials, and run them. What the directory holds already counts.

    Args:
        plan: with its baseline; it names the tuner.
        store: the experiment's directory, with its settings.
        trials: how many in all. One that was tried before is answered from its record, and counts.
        start: how trials' processes are started.

    Raises:
        ConfigError: the tuner cannot be created, or cannot take the search space.
        TrialError: nothing but failures so far.
    """
    store.journal.repair()
    ledger = Ledger(store)
    ledger.absorb()
    run = _Run(plan, ledger, start)
    run.import_finished()
    for parameter_id in range(len(ledger.records), trials):
        if not run.one(parameter_id):
            return


class _Run:
    def __init__(self, plan: ExperimentPlan, ledger: Ledger, start: Starter) -> None:
        self._ledger, self._start = ledger, start
        self._finished = False
        self._algorithms = create_algorithms(plan, ledger, self._finish, Machines(ledger.directory))
        self._tuner = self._algorithms.tuner
        self._tuner.update_search_space(flattened(plan.search_space))

    def _finish(self) -> None:
        self._finished = True

    def import_finished(self) -> None:
        """Let the tuner learn from trials of before an interruption."""
        known = [record for record in self._ledger.records if record.score is not None]
        if known:
            self._tuner.import_data([{"parameter": each.parameters, "value": each.score} for each in known])

    def one(self, parameter_id: int) -> bool:
        """Run the trial that the tuner wants; whether there was one."""
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
        key = self._algorithms.trials.key(parameters)
        end = _run(TrialProcess(self._ledger.directory, key, parameters, self._start))
        if end.crash is not None:
            self._algorithms.trials.note_crash(parameter_id, end.crash)
        return self._ledger.directory.trial(key).record()


def _run(process: TrialProcess) -> End:
    try:
        for _ in process.results():
            pass
        return process.wait()
    except BaseException:
        process.interrupt()
        process.wait()
        raise
