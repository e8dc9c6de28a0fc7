"""MLflow: a run for the search, and one under it for each trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocompress.errors import ConfigError, InfeasibleBudgetError
from autocompress.records import TrialRecord
from autocompress.store import PendingTrial
from autocompress.tracking.callback import Callback, metrics, run_name, run_parameters

if TYPE_CHECKING:
    from autocompress.result import CompressionResult

_STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "lost": "FAILED"}


class MlflowCallback(Callback):
    """Writes to an MLflow tracking server or folder. At the end the search's run has the report and the best model.

    Args:
        tracking_uri: of the server, or `file:folder`; MLflow's own setting by default.
        experiment: MLflow's experiment; it is made if there is none.

    Raises:
        ConfigError: MLflow is not installed, or the server cannot be used.
    """

    def __init__(self, tracking_uri: str | None = None, experiment: str = "autocompress") -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ConfigError(f"MLflow must be installed (pip install mlflow-skinny): {error}") from error
        try:
            self._client = MlflowClient(tracking_uri)
            known = self._client.get_experiment_by_name(experiment)
            self._experiment = known.experiment_id if known else self._client.create_experiment(experiment)
            self._search = self._client.create_run(self._experiment, run_name="search").info.run_id
        except Exception as error:  # MLflow and its backends raise errors of many types
            raise ConfigError(f"MLflow at {tracking_uri or 'its own address'} cannot be used: {error}") from error
        self._trials: dict[str, str] = {}
        self._ended = 0

    def on_epoch_end(self, trial: PendingTrial, epoch: Mapping[str, Any]) -> None:
        """Log the accuracy and its margin."""
        for name in ("accuracy", "accuracy_margin"):
            if name in epoch:
                self._client.log_metric(self._run(trial), name, float(epoch[name]), step=int(epoch["epoch"]))

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log the trial's figures, and end its run."""
        self._ended += 1
        run = self._run(PendingTrial(record.key, record.parameters))
        for name, value in metrics(record).items():
            self._client.log_metric(run, f"final_{name}", value)
            self._client.log_metric(self._search, name, value, step=self._ended)
        self._client.set_tag(run, "autocompress.verdict", record.error or ("within" if record.feasible else "outside"))
        self._client.set_terminated(run, _STATUS[record.state])
        del self._trials[record.key]

    def on_search_end(self, result: CompressionResult) -> None:
        """Log the report and the best model."""
        self._client.log_artifact(self._search, str(result.report()))
        try:
            self._client.log_artifacts(self._search, str(result.checkpoint), "checkpoint")
            self._client.set_tag(self._search, "mlflow.note.content", result.summary())
        except InfeasibleBudgetError as error:
            self._client.set_tag(self._search, "mlflow.note.content", str(error))
        self._client.set_terminated(self._search, "FINISHED")

    def close(self) -> None:
        """End what is still open."""
        for run in (*self._trials.values(), self._search):
            if self._client.get_run(run).info.status == "RUNNING":
                self._client.set_terminated(run, "KILLED")

    def _run(self, trial: PendingTrial) -> str:
        if trial.key not in self._trials:
            tags = {"mlflow.parentRunId": self._search, "mlflow.runName": run_name(trial)}
            run = self._client.create_run(self._experiment, start_time=int(1000 * time.time()), tags=tags)
            self._trials[trial.key] = run.info.run_id
            for name, value in run_parameters(trial).items():
                self._client.log_param(run.info.run_id, name.replace("::", "."), value)
        return self._trials[trial.key]
