"""A study's directory, kept in step with its storage; files for optuna-dashboard."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.trial import FrozenTrial

from autocompress.engines.optuna.convert import KnownRecords, open_trial, records_of
from autocompress.errors import StoreError
from autocompress.plan import ExperimentPlan, OptunaPlan
from autocompress.records import TrialRecord
from autocompress.report import write_report
from autocompress.store import ExperimentDirectory, Ledger, PendingTrial
from autocompress.store.artefacts import Artefacts
from autocompress.store.locks import short_lock

ARTIFACTS = "artefacts"
"""Folder in the study's directory, for `optuna-dashboard --artifact-dir`."""


def upload_artifacts(study: optuna.Study, store: ExperimentDirectory, best: str) -> None:
    """Add the report, the plots and the best model's checkpoint to the study's artifacts, as finished trials take none.

    Args:
        study: that has ended.
        store: its directory.
        best: key of the best trial.

    Raises:
        StoreError: the report cannot be written.
    """
    place, storage = store.path / ARTIFACTS, study._storage
    place.mkdir(exist_ok=True)
    shelf = FileSystemArtifactStore(place)
    known = {meta.filename for meta in get_all_artifact_meta(study, storage=storage)}
    trial = store.trial(best)
    files = [write_report(store), *sorted((store.path / "plots").glob("*.png")), trial.path / "record.json"]
    for file in (*files, *sorted(trial.checkpoint.glob("*"))):
        if file.is_file() and file.name not in known:
            upload_artifact(artifact_store=shelf, file_path=str(file), study_or_trial=study, storage=storage)


class DirectorySync:
    """Keeps a directory in step with the study's storage, which decides.

    Args:
        store: the directory.
        artefacts: where checkpoints are shared with workers that do not share the directory; None where all do.
    """

    def __init__(self, store: ExperimentDirectory, artefacts: Artefacts | None = None) -> None:
        self.store = store
        self._artefacts = artefacts
        self._known: Ledger | None = None
        self._read: KnownRecords = {}

    def prepare(self, plan: ExperimentPlan) -> None:
        """Write the plan where there is none.

        Raises:
            StoreError: the directory cannot be written, or belongs to another experiment.
        """
        if not self.store.exists():
            self.store.write_settings(plan.to_dict())
            return
        engine = ExperimentPlan.read(self.store).engine
        if not isinstance(engine, OptunaPlan) or engine.study != plan.engine_as(OptunaPlan).study:
            raise StoreError(
                f"the directory must not belong to another experiment; {self.store.path} does: name another directory"
            )

    def fetch(self, pending: PendingTrial) -> None:
        """Bring here what a trial needs: the checkpoint it starts from, and its own result if there is one.

        Raises:
            StoreError: the checkpoint is not there, or cannot be read.
        """
        if self._artefacts is None:
            return
        start = pending.parameters["search"].get("start_from")
        if start is not None and not self._artefacts.pull(start, self.store.trial(start).path):
            raise StoreError(f"{self._artefacts.url} must hold the checkpoint of trial {start}; it does not")
        self._artefacts.pull(pending.key, self.store.trial(pending.key).path)

    def give(self, record: TrialRecord) -> None:
        """Share the files of an ended trial, before its result is in the storage.

        Raises:
            StoreError: they cannot be written.
        """
        if self._artefacts is not None:
            self._artefacts.push(record.key, self.store.trial(record.key).path)

    def fetch_feasible(self, records: Iterable[TrialRecord]) -> None:
        """Bring here the checkpoints of all models within the budget.

        Raises:
            StoreError: one cannot be read.
        """
        for record in records:
            if self._artefacts is not None and record.feasible:
                self._artefacts.pull(record.key, self.store.trial(record.key).path)

    def records(self, trials: Sequence[FrozenTrial]) -> list[TrialRecord]:
        """`records_of` these trials of the study; each is read once."""
        return records_of(trials, self._read)

    def sync(self, trials: Sequence[FrozenTrial]) -> Ledger:
        """Take over what has happened in the study, all of whose trials these are; the ledger of it.

        Raises:
            StoreError: the journal cannot be read or written.
        """
        with self._ledger() as ledger:
            for record in _unknown(ledger.records, self.records(trials)):
                ledger.add(record)
            for trial in trials:
                if not trial.state.is_finished() and (pending := open_trial(trial)) is not None:
                    ledger.propose(pending)
            return ledger

    def propose(self, pending: PendingTrial) -> None:
        """Note that a trial is about to run.

        Raises:
            StoreError: the journal cannot be read or written.
        """
        with self._ledger() as ledger:
            ledger.propose(pending)

    @contextlib.contextmanager
    def _ledger(self) -> Iterator[Ledger]:
        """What the journal tells; several workers may share the directory, one at a time writes."""
        with short_lock(self.store.path / ".sync"):
            self.store.journal.repair()
            self._known = self._known or Ledger(self.store)
            self._known.refresh()
            yield self._known


def _unknown(known: Iterable[TrialRecord], records: Iterable[TrialRecord]) -> Iterator[TrialRecord]:
    """The records that are not known yet. Trials of one key come one after the other, so counting them is enough."""
    left = Counter(record.key for record in known)
    for record in records:
        if left[record.key]:
            left[record.key] -= 1
        else:
            yield record
