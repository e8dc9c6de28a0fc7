"""Weights & Biases: a run for each trial, in one group, and one for the search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autocompress.errors import ConfigError
from autocompress.records import TrialRecord
from autocompress.store import PendingTrial
from autocompress.tracking.callback import Callback, metrics, run_name, run_parameters

if TYPE_CHECKING:
    from autocompress.result import CompressionResult


class WandbCallback(Callback):
    """Writes to Weights & Biases. `WANDB_MODE=offline` keeps everything on this machine.

    Args:
        project: there.
        group: of the runs; a new one by default.

    Raises:
        ConfigError: wandb is not installed, or the project cannot be used.
    """

    def __init__(self, project: str, group: str | None = None) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(f"Weights & Biases must be installed (pip install wandb): {error}") from error
        self._wandb, self._project = wandb, project
        self._group = group or f"search-{wandb.util.generate_id()}"
        self._trials: dict[str, Any] = {}
        try:
            self._search = self._init_run("search", {})
        except Exception as error:  # wandb raises what it likes
            raise ConfigError(f"the project {project!r} of Weights & Biases cannot be used: {error}") from error

    def on_epoch_end(self, trial: PendingTrial, epoch: Mapping[str, Any]) -> None:
        """Log the accuracy and its margin."""
        self._run(trial).log({name: epoch[name] for name in ("epoch", "accuracy", "accuracy_margin") if name in epoch})

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log the trial's figures, and end its run."""
        run = self._run(PendingTrial(record.key, record.parameters))
        run.summary.update({**metrics(record), "state": record.state, "error": record.error})
        run.finish(exit_code=0 if record.error is None else 1)
        del self._trials[record.key]
        self._search.log(metrics(record))

    def on_search_end(self, result: CompressionResult) -> None:
        """Log the report and the best model."""
        self._search.log({"report": self._wandb.Html(result.report().read_text(encoding="utf-8"))})

    def close(self) -> None:
        """End what is still open."""
        for run in (*self._trials.values(), self._search):
            run.finish()

    def _run(self, trial: PendingTrial) -> Any:
        if trial.key not in self._trials:
            self._trials[trial.key] = self._init_run(run_name(trial), run_parameters(trial))
        return self._trials[trial.key]

    def _init_run(self, name: str, config: Mapping[str, Any]) -> Any:
        return self._wandb.init(
            project=self._project, group=self._group, name=name, config=dict(config), reinit="create_new"
        )
