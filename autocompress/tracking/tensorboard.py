"""TensorBoard: one run for the search, one for each trial."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import ConfigError
from autocompress.records import TrialRecord
from autocompress.store import PendingTrial
from autocompress.tracking.callback import Callback, metrics, run_name

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from autocompress.result import CompressionResult


class TensorBoardCallback(Callback):
    """Writes event files: `search` with a point for each trial, and a learning curve for each trial.

    Args:
        directory: TensorBoard's log directory.

    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, directory: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(f"TensorBoard must be installed (pip install tensorboard): {error}") from error
        self._directory, self._open = Path(directory), SummaryWriter
        self._search = SummaryWriter(str(self._directory / "search"))
        self._trials: dict[str, SummaryWriter] = {}
        self._ended = 0

    def on_epoch_end(self, trial: PendingTrial, epoch: Mapping[str, Any]) -> None:
        """Log the accuracy and its margin."""
        if trial.key not in self._trials:
            self._trials[trial.key] = self._open(str(self._directory / f"{run_name(trial)}-{trial.key[:6]}"))
        for name in ("accuracy", "accuracy_margin"):
            if name in epoch:
                self._trials[trial.key].add_scalar(f"trial/{name}", epoch[name], epoch["epoch"])
        self._trials[trial.key].flush()

    def on_trial_end(self, record: TrialRecord) -> None:
        """Log the trial's figures, and end its run."""
        self._ended += 1
        for name, value in metrics(record).items():
            self._search.add_scalar(f"search/{name}", value, self._ended)
        self._search.flush()
        if record.key in self._trials:
            self._trials.pop(record.key).close()

    def on_search_end(self, result: CompressionResult) -> None:
        """Log the report and the best model."""
        from autocompress.report.data import read_report_data
        from autocompress.report.verdict import findings, headline

        data = read_report_data(result.directory)
        self._search.add_text("verdict", "\n\n".join([headline(data), *findings(data)]))

    def close(self) -> None:
        """End what is still open."""
        for writer in (*self._trials.values(), self._search):
            writer.close()
