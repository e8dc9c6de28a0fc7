"""What one search of a comparison is: one tuner, one seed, in a directory of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocompress.compare.names import TunerName
from autocompress.config import AccuracyAwareSettings
from autocompress.records import Baseline

Engine = Literal["in-process", "nni"]
"""Where NNI's tuners and ours run: driven in process, or each as a real NNI experiment. Optuna's are Optuna's."""


@dataclass(frozen=True)
class SearchOrder:
    """One search.

    Attributes:
        tuner: what chooses the trials.
        settings: of the search, its seed among them.
        directory: the experiment's.
        trials: the most trials.
        engine: where it runs.
        module: reference to the user's module, as JSON.
        search_space: in NNI's wire format.
        objective: what trials are compared by.
        baseline: the uncompressed model.
    """

    tuner: TunerName
    settings: AccuracyAwareSettings
    directory: Path
    trials: int
    engine: Engine
    module: Mapping[str, Any]
    search_space: Mapping[str, Any]
    objective: str
    baseline: Baseline

    @property
    def seed(self) -> int:
        """Of the tuner and of its trials."""
        return self.settings.seed

    @property
    def told(self) -> str:
        """As it is shown."""
        return f"{self.tuner.label}, seed {self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **plain,
            "tuner": dataclasses.asdict(self.tuner),
            "settings": self.settings.to_dict(),
            "directory": str(self.directory),
            "baseline": self.baseline.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchOrder:
        """What `to_dict` wrote."""
        return cls(
            **{
                **data,
                "tuner": TunerName(**data["tuner"]),
                "settings": AccuracyAwareSettings.from_record(data["settings"]),
                "directory": Path(data["directory"]),
                "baseline": Baseline.from_dict(data["baseline"]),
            }
        )
