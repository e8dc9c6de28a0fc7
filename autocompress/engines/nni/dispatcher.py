"""NNI's message dispatcher, run in a thread of the launching process.

In its own process, an exception of the tuner would leave the experiment RUNNING forever. Here it is raised.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import nni
from nni.assessor import Assessor, AssessResult
from nni.runtime import msg_dispatcher
from nni.runtime.msg_dispatcher import MsgDispatcher
from nni.tuner import Tuner

from autocompress.errors import AutoCompressError, EngineError
from autocompress.search.adaptive import reason_to_stop


class Dispatcher(MsgDispatcher):  # type: ignore[misc]  # NNI is not typed
    """Carries messages between NNI's manager and a tuner and an assessor.

    NNI's own passes the results of trials that run again after a resume to the tuner as imported data, and does not
    report their failures. This one hands them to the tuner's `adopt(parameter_id, parameters)`. When a trial's process
    ends, `on_end` is called with the parameter id, NNI's trial id and its status, before the tuner is notified.
    """

    def __init__(
        self, channel: str, tuner: Tuner, assessor: Assessor | None, on_end: Callable[[int, str, str], None]
    ) -> None:
        super().__init__(channel, tuner, assessor)
        self._on_end = on_end
        self._thread = threading.Thread(target=self._run, name="autocompress-dispatcher", daemon=True)
        self._error: BaseException | None = None
        # When the manager is gone, NNI prints a traceback for each of its five retries; we report that once.
        logging.getLogger("nni.runtime.command_channel").setLevel(logging.CRITICAL)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; the manager closes the channel."""
        self.stopping = True
        self._thread.join(timeout=10)

    def raise_error(self) -> None:
        """Raise what the tuner or the assessor raised, if anything: our errors as they are, others as EngineError."""
        error = self.worker_exceptions[0] if self.worker_exceptions else self._error
        if isinstance(error, AutoCompressError):
            raise error
        if error is not None:
            raise EngineError(f"the tuner or assessor failed: {error!r}") from error

    def handle_add_customized_trial(self, data: Any) -> None:
        """NNI reports which trials run again after a resume."""
        super().handle_add_customized_trial(data)
        for trial in [nni.load(entry) if isinstance(entry, str) else entry for entry in data]:
            if isinstance(trial["parameter_id"], int):
                msg_dispatcher._trial_params[trial["parameter_id"]] = trial["parameters"]
                self.tuner.adopt(trial["parameter_id"], trial["parameters"])

    def handle_trial_end(self, data: Any) -> None:
        """A trial's process has ended."""
        parameter_id = nni.load(data["hyper_params"])["parameter_id"]
        self._on_end(parameter_id, data["trial_job_id"], data["event"])
        super().handle_trial_end(data)

    def is_created_in_previous_exp(self, param_id: int | None) -> bool:  # noqa: ARG002 - NNI's signature
        """Always false: see the class."""
        return False

    def _run(self) -> None:
        try:
            self.run()
        except Exception as error:  # noqa: BLE001 - carried to the main thread, which raises it
            self._error = error


_logger = logging.getLogger(__name__)


class AdaptiveCompressionAssessor(Assessor):  # type: ignore[misc]  # NNI is not typed
    """Stops trials by the epochs counted from their intermediate results.

    `patience` bounds the epochs of one trial (None: no bound); `epochs_before` were done before a resume.
    """

    def __init__(self, maximal_total_epochs: int, patience: int | None = None, epochs_before: int = 0) -> None:
        self._maximal_total_epochs = maximal_total_epochs
        self._patience = patience
        self._epochs_before = epochs_before
        self._epochs: dict[str, int] = {}

    def assess_trial(self, trial_job_id: str, trial_history: list[Any]) -> AssessResult:
        """Whether a trial may go on after its latest intermediate result."""
        latest = trial_history[-1]
        self._epochs[trial_job_id] = int(latest["epoch"])
        reason = reason_to_stop(
            self._epochs[trial_job_id],
            patience=self._patience,
            total_epochs=self._epochs_before + sum(self._epochs.values()),
            maximal_total_epochs=self._maximal_total_epochs,
        )
        if reason is None:
            return AssessResult.Good
        _logger.info("trial %s is ended: %s", trial_job_id, reason)
        return AssessResult.Bad
