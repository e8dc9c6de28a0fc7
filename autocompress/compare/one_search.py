"""What one search of a comparison is: one tuner, one seed, in a directory of its own."""

from __future__ import annotations

import dataclasses
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from autocompress.compare.tuners import TunerName
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import AutoCompressError, InfeasibleBudgetError, TrialError
from autocompress.records import Baseline
from autocompress.registry import load_if_unknown
from autocompress.search_space.space import algorithm_names
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.store.disk import read_json, write_json

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
    def engine_name(self) -> str:
        """The engine that runs it."""
        if self.tuner.framework == "optuna":
            return "optuna"
        return "nni" if self.engine == "nni" else "nni-tuner"

    def request(self) -> SearchRequest:
        """As the engine takes it."""
        from autocompress.compression.module_loading import ModuleReference
        from autocompress.engines.nni.manager import free_port

        return SearchRequest(
            module=ModuleReference.from_dict(self.module),
            search_space=dict(self.search_space),
            directory=self.directory,
            settings=self.settings,
            tuner=self.tuner.name,
            objective=self.objective,
            trials=self.trials,
            baseline=self.baseline,
            options={"port": free_port()} if self.engine_name == "nni" else {},
        )

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


def run(order: SearchOrder) -> None:
    """Run the search to its end, or go on with it. That nothing stays within the budget is a result.

    Raises:
        AutoCompressError: the search failed.
    """
    from autocompress.compression.module_loading import ModuleReference

    engine = engine_named(order.engine_name)
    load_if_unknown(algorithm_names(order.search_space), ModuleReference.from_dict(order.module).load)
    if ExperimentDirectory(order.directory).exists():
        done = len(Ledger(ExperimentDirectory(order.directory)).records)
        search = engine.open(order.directory, trials=max(0, order.trials - done))
    else:
        search = engine.create(order.request())
    try:
        search.run()
    except InfeasibleBudgetError:
        return
    finally:
        search.stop()


def _answer(order: SearchOrder) -> dict[str, Any]:
    try:
        run(order)
    except TrialError as error:
        return {"error": str(error.args[0])}
    except AutoCompressError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - tuners raise whatever they like; the others go on
        return {"error": f"{type(error).__name__}: {error}"}
    return {"error": None}


def main(order: str, answer: str) -> None:
    """Run the search of the order file, and write the answer file."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = SearchOrder.from_dict(read_json(Path(order)))
    write_json(Path(answer), _answer(found))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
