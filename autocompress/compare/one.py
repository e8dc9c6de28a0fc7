"""One search of a comparison, in a process of its own: `python -m autocompress.compare.one ORDER ANSWER`.

Tuners draw from global random generators; a process for each search keeps them apart.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

from autocompress.compare.order import SearchOrder
from autocompress.errors import AutoCompressError, InfeasibleBudgetError, TrialError
from autocompress.result import CompressionResult
from autocompress.store import ExperimentDirectory
from autocompress.store.files import read_json, write_json


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
    from autocompress.compress.loading import ModuleReference
    from autocompress.engines.optuna.storages import named_sampler
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
    from autocompress.engines.nni.inprocess import drive
    from autocompress.engines.plan import ExperimentPlan
    from autocompress.trial.forking import ForkServer

    plan = ExperimentPlan(
        module=dict(order.module),
        search_space=dict(order.search_space),
        settings=order.settings,
        objective=order.objective,
        tuner=order.tuner.name,
        engine={"name": "nni, in process"},
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
    from autocompress.compress.loading import ModuleReference
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
