"""Putting a trial of a loop on disk, which somebody does who has time for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autocompress.compress.copying import copied
from autocompress.compress.measure import macs, nonzero_parameters, parameters
from autocompress.compress.shipping.checkpoint import save_checkpoint
from autocompress.compress.shipping.claims import reread
from autocompress.compress.shipping.files import WEIGHTS
from autocompress.controller.capture import Capture
from autocompress.controller.model import Surveyed
from autocompress.records import Measurement, TrialRecord
from autocompress.store import TrialDirectory


@dataclass(frozen=True)
class Saving:
    """Implements `writing.Outcome`.

    Attributes:
        record: all that the rule needs to know.
        directory: of the trial.
        uncompressed: what the trial began with.
        capture: its model; None: it failed.
    """

    record: TrialRecord
    directory: TrialDirectory
    uncompressed: Surveyed
    capture: Capture | None

    def save_model(self) -> None:
        """See `writing.Outcome`."""
        if self.capture is not None:
            save_checkpoint(self.capture.finished, self.directory.checkpoint, original=self.uncompressed.model)

    def save_rest(self) -> TrialRecord:
        """See `writing.Outcome`."""
        whole = self.record
        if self.capture is not None:
            if self.capture.start is not self.capture.finished:
                save_checkpoint(self.capture.start, self.directory.pruned, original=self.uncompressed.model)
            whole = dataclasses.replace(whole, **self._measured(self.capture))
        self.directory.write_record(whole)
        return whole

    def _measured(self, capture: Capture) -> dict[str, Any]:
        """Measured on what the file gives back."""
        path, inputs = self.directory.checkpoint, self.uncompressed.inputs
        # Running a model switches its mode for a moment, and another thread may be copying this one.
        loaded = reread(path, copied(capture.finished), self.uncompressed.model, inputs)
        capture.require(loaded, path)
        size = (path / WEIGHTS).stat().st_size
        after = Measurement(parameters(loaded), nonzero_parameters(loaded), macs(loaded, inputs), size)
        return {**self.uncompressed.size.removed_in(after), "bytes": size}
