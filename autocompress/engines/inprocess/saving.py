"""Putting a trial of a loop on disk, which somebody does who has time for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from autocompress.compress.copying import copied
from autocompress.compress.measure import macs, nonzero_parameters
from autocompress.compress.shipping.checkpoint import WEIGHTS, save_checkpoint
from autocompress.controller.model import Surveyed
from autocompress.controller.snapshot import Snapshot
from autocompress.records import TrialRecord
from autocompress.store import TrialDirectory


@dataclass(frozen=True)
class Saving:
    """Implements `writing.Outcome`.

    Attributes:
        record: all that the rule needs to know.
        directory: of the trial.
        uncompressed: what the trial began with.
        snapshot: its model; None: it failed.
    """

    record: TrialRecord
    directory: TrialDirectory
    uncompressed: Surveyed
    snapshot: Snapshot | None

    def save_model(self) -> None:
        """See `writing.Outcome`."""
        if self.snapshot is not None:
            save_checkpoint(self.snapshot.finished, self.directory.checkpoint, original=self.uncompressed.model)

    def save_rest(self) -> TrialRecord:
        """See `writing.Outcome`."""
        whole = self.record
        if self.snapshot is not None:
            if self.snapshot.start is not self.snapshot.finished:
                save_checkpoint(self.snapshot.start, self.directory.pruned, original=self.uncompressed.model)
            whole = dataclasses.replace(whole, **self._measured(self.snapshot))
        self.directory.write_record(whole)
        return whole

    def _measured(self, snapshot: Snapshot) -> dict[str, Any]:
        before, finished = self.uncompressed.size, snapshot.finished
        # Counting puts hooks on a model for a moment, and somebody may be copying this one.
        computed = macs(copied(finished), self.uncompressed.inputs)
        size = (self.directory.checkpoint / WEIGHTS).stat().st_size
        return {
            "parameters_removed": 1 - nonzero_parameters(finished) / before.nonzero_parameters,
            "macs_removed": 1 - computed / before.macs if before.macs else 0.0,
            "size_removed": 1 - size / before.bytes,
            "bytes": size,
        }
