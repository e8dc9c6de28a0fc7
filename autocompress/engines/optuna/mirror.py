"""A study's directory: artefacts, and a copy of the study for everything that reads an experiment's directory."""

from __future__ import annotations

import fcntl

import optuna

from autocompress.engines.optuna.records import open_trial, records_of
from autocompress.engines.plan import ExperimentPlan
from autocompress.errors import StoreError
from autocompress.store import ExperimentDirectory, Ledger


class Mirror:
    """Keeps a directory like the study, whose storage is the truth.

    Args:
        store: the directory.
    """

    def __init__(self, store: ExperimentDirectory) -> None:
        self.store = store

    def prepare(self, plan: ExperimentPlan) -> None:
        """Write the plan where there is none.

        Raises:
            StoreError: the directory cannot be written, or belongs to another experiment.
        """
        if not self.store.exists():
            self.store.write_settings(plan.to_dict())
            return
        engine = ExperimentPlan.from_dict(self.store.settings()).engine
        if (engine.get("name"), engine.get("study")) != ("optuna", plan.engine["study"]):
            raise StoreError(
                f"the directory must not belong to another experiment; {self.store.path} does: name another directory"
            )

    def sync(self, study: optuna.Study) -> Ledger:
        """Take over what has happened in the study; the ledger of it.

        Raises:
            StoreError: the journal cannot be read or written.
        """
        trials = study.get_trials(deepcopy=False)
        with (self.store.path / ".sync").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several workers may share the directory
            self.store.journal.repair()
            ledger = Ledger(self.store)
            known = [record.to_dict() for record in ledger.records]
            for record in records_of(trials):
                if record.to_dict() in known:
                    known.remove(record.to_dict())
                else:
                    ledger.add(record)
            for trial in trials:
                asked = open_trial(trial)
                if asked is not None and not trial.state.is_finished():
                    ledger.propose(asked)
            return ledger
