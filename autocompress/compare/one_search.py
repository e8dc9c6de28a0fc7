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
from autocompress.errors import AutoCompressError, InfeasibleBudgetError, TrialError
from autocompress.records import Baseline
from autocompress.result import CompressionResult
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory
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
    try:
        if order.tuner.framework == "optuna" or (order.tuner.framework == "adaptive" and order.engine == "in-process"):
            _on_optuna(order)
        elif order.engine == "nni":
            _on_nni(order)
        else:
            _driven(order)
    except InfeasibleBudgetError:
        return


def _on_optuna(order: SearchOrder) -> None:
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.engines.optuna.storage import named_sampler
    from autocompress.engines.optuna.study import CompressionStudy

    stock = order.tuner.framework == "optuna"
    study = CompressionStudy(
        ModuleReference.from_dict(order.module),
        order.search_space,
        settings=order.settings,
        sampler=named_sampler(order.tuner.name, order.seed) if stock else None,
        objective=order.objective,
        directory=order.directory,
        baseline=order.baseline,
    )
    study.optimize(max(0, order.trials - len(study.result.records)))


def _driven(order: SearchOrder) -> None:
    from autocompress.engines.nni.local_runner import drive
    from autocompress.plan import BuiltinTunerEngine, ExperimentPlan
    from autocompress.trial.process import ForkServer

    plan = ExperimentPlan(
        module=dict(order.module),
        search_space=dict(order.search_space),
        settings=order.settings,
        objective=order.objective,
        tuner=order.tuner.name,
        engine=BuiltinTunerEngine(),
        baseline=order.baseline,
    )
    store = ExperimentDirectory(order.directory)
    if not store.exists():
        store.create()
        store.write_settings(plan.to_dict())
    with store.locked(), ForkServer() as server:
        drive(plan, store, order.trials, server)
    CompressionResult(store).verify()


def _on_nni(order: SearchOrder) -> None:
    from autocompress.compression.module_loading import ModuleReference
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.engines.nni.manager import free_port

    if ExperimentDirectory(order.directory).exists():
        AutoCompressionExperiment.open(order.directory).resume(free_port())
        return
    experiment = AutoCompressionExperiment(ModuleReference.from_dict(order.module), directory=order.directory)
    experiment.config.search_space = dict(order.search_space)
    experiment.config.tuner.name = order.tuner.name
    experiment.config.max_trial_number = order.trials
    experiment.settings, experiment.objective = order.settings, order.objective
    experiment.run(free_port())
    experiment.stop()


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
