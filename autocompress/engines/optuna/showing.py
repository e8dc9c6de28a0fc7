"""What optuna-dashboard shows beside a study's figures: files, as artifacts of Optuna's."""

from __future__ import annotations

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from autocompress.report import write_report
from autocompress.store import ExperimentDirectory

SHOWN = "artefacts"
"""Folder in the study's directory that `optuna-dashboard --artifact-dir` is told."""


def show_files(study: optuna.Study, store: ExperimentDirectory, best: str) -> None:
    """Give the study its report, its plots and the best model's checkpoint, where it has them not yet.

    They are the study's and not its trials', as Optuna's finished trials cannot be given anything.

    Args:
        study: that has ended.
        store: its directory.
        best: key of the best trial.

    Raises:
        StoreError: the report cannot be written.
    """
    place, storage = store.path / SHOWN, study._storage
    place.mkdir(exist_ok=True)
    shelf = FileSystemArtifactStore(place)
    known = {meta.filename for meta in get_all_artifact_meta(study, storage=storage)}
    trial = store.trial(best)
    files = [write_report(store), *sorted((store.path / "plots").glob("*.png")), trial.path / "record.json"]
    for file in (*files, *sorted(trial.checkpoint.glob("*"))):
        if file.is_file() and file.name not in known:
            upload_artifact(artifact_store=shelf, file_path=str(file), study_or_trial=study, storage=storage)
