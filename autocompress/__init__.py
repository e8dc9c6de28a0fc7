"""autocompress: the highest compression rate of a PyTorch model within an accuracy budget.

Importing this package imports neither torch, nni nor optuna: each public name is loaded when it is first used (PEP
562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autocompress.budget import AccuracyBudget
    from autocompress.compare.comparing import compare_tuners
    from autocompress.compress.module import AbstractAutoCompressionModule
    from autocompress.compress.registered import register_module
    from autocompress.compress.shipping.checkpoint import load_compressed
    from autocompress.compress.shipping.export import ExportReport, export
    from autocompress.config import AccuracyAwareSettings, AutoCompressionSearchSpaceGenerator
    from autocompress.config.nncf import CompressionConfig
    from autocompress.controller.controller import CompressionController
    from autocompress.controller.creating import create_compressed_model
    from autocompress.controller.data import register_default_init_args
    from autocompress.controller.loading import load_state
    from autocompress.controller.stages import CompressionStage
    from autocompress.engines.inprocess.creating import create_accuracy_aware_training_loop
    from autocompress.engines.inprocess.loop import AdaptiveCompressionTrainingLoop, EarlyExitCompressionTrainingLoop
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.engines.optuna.constraints import set_accuracy_budget
    from autocompress.engines.optuna.pruner import AdaptiveCompressionPruner
    from autocompress.engines.optuna.sampler import AdaptiveCompressionSampler
    from autocompress.engines.optuna.study import CompressionStudy
    from autocompress.errors import (
        AutoCompressError,
        CompressionError,
        ConfigError,
        EngineError,
        InfeasibleBudgetError,
        ModuleError,
        StoreError,
        TrialError,
    )
    from autocompress.records import Baseline, Measurement, Proposal, TrialRecord
    from autocompress.report.comparison import Comparison
    from autocompress.result import CompressionResult
    from autocompress.search import Position, StepHalving
    from autocompress.tracking import Callback
    from autocompress.tracking.mlflow import MlflowCallback
    from autocompress.tracking.tensorboard import TensorBoardCallback
    from autocompress.tracking.wandb import WandbCallback
    from autocompress.trial import run_trial
    from autocompress.trial.checking import AlgorithmCheck, check_module

_HOMES = {
    "AbstractAutoCompressionModule": "autocompress.compress.module",
    "AccuracyAwareSettings": "autocompress.config",
    "AccuracyBudget": "autocompress.budget",
    "AdaptiveCompressionPruner": "autocompress.engines.optuna.pruner",
    "AdaptiveCompressionSampler": "autocompress.engines.optuna.sampler",
    "AdaptiveCompressionTrainingLoop": "autocompress.engines.inprocess.loop",
    "AlgorithmCheck": "autocompress.trial.checking",
    "AutoCompressError": "autocompress.errors",
    "AutoCompressionExperiment": "autocompress.engines.nni",
    "AutoCompressionSearchSpaceGenerator": "autocompress.config",
    "Baseline": "autocompress.records",
    "Callback": "autocompress.tracking",
    "Comparison": "autocompress.report.comparison",
    "CompressionConfig": "autocompress.config.nncf",
    "CompressionController": "autocompress.controller.controller",
    "CompressionError": "autocompress.errors",
    "CompressionResult": "autocompress.result",
    "CompressionStage": "autocompress.controller.stages",
    "CompressionStudy": "autocompress.engines.optuna.study",
    "ConfigError": "autocompress.errors",
    "EarlyExitCompressionTrainingLoop": "autocompress.engines.inprocess.loop",
    "EngineError": "autocompress.errors",
    "ExportReport": "autocompress.compress.shipping.export",
    "InfeasibleBudgetError": "autocompress.errors",
    "Measurement": "autocompress.records",
    "MlflowCallback": "autocompress.tracking.mlflow",
    "ModuleError": "autocompress.errors",
    "Position": "autocompress.search",
    "Proposal": "autocompress.records",
    "StepHalving": "autocompress.search",
    "StoreError": "autocompress.errors",
    "TensorBoardCallback": "autocompress.tracking.tensorboard",
    "TrialError": "autocompress.errors",
    "TrialRecord": "autocompress.records",
    "WandbCallback": "autocompress.tracking.wandb",
    "check_module": "autocompress.trial.checking",
    "compare_tuners": "autocompress.compare.comparing",
    "create_accuracy_aware_training_loop": "autocompress.engines.inprocess.creating",
    "create_compressed_model": "autocompress.controller.creating",
    "export": "autocompress.compress.shipping.export",
    "load_compressed": "autocompress.compress.shipping.checkpoint",
    "load_state": "autocompress.controller.loading",
    "register_default_init_args": "autocompress.controller.data",
    "register_module": "autocompress.compress.registered",
    "run_trial": "autocompress.trial",
    "set_accuracy_budget": "autocompress.engines.optuna.constraints",
}

__all__ = [
    "AbstractAutoCompressionModule",
    "AccuracyAwareSettings",
    "AccuracyBudget",
    "AdaptiveCompressionPruner",
    "AdaptiveCompressionSampler",
    "AdaptiveCompressionTrainingLoop",
    "AlgorithmCheck",
    "AutoCompressError",
    "AutoCompressionExperiment",
    "AutoCompressionSearchSpaceGenerator",
    "Baseline",
    "Callback",
    "Comparison",
    "CompressionConfig",
    "CompressionController",
    "CompressionError",
    "CompressionResult",
    "CompressionStage",
    "CompressionStudy",
    "ConfigError",
    "EarlyExitCompressionTrainingLoop",
    "EngineError",
    "ExportReport",
    "InfeasibleBudgetError",
    "Measurement",
    "MlflowCallback",
    "ModuleError",
    "Position",
    "Proposal",
    "StepHalving",
    "StoreError",
    "TensorBoardCallback",
    "TrialError",
    "TrialRecord",
    "WandbCallback",
    "__version__",
    "check_module",
    "compare_tuners",
    "create_accuracy_aware_training_loop",
    "create_compressed_model",
    "export",
    "load_compressed",
    "load_state",
    "register_default_init_args",
    "register_module",
    "run_trial",
    "set_accuracy_budget",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("autocompress")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
