"""autocompress: the highest compression rate of a PyTorch model within an accuracy budget.

Importing this package imports neither torch, nni nor optuna: each public name is loaded when it is first used (PEP
562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autocompress.torchvision_import import TorchvisionFinder

if TYPE_CHECKING:
    from autocompress.budget import AccuracyBudget
    from autocompress.compare.compare_tuners import compare_tuners
    from autocompress.compression.layers import register_module
    from autocompress.compression.module import AbstractAutoCompressionModule
    from autocompress.engines.local.factory import create_accuracy_aware_training_loop
    from autocompress.engines.local.loop import AdaptiveCompressionTrainingLoop, EarlyExitCompressionTrainingLoop
    from autocompress.engines.nni import AutoCompressionExperiment
    from autocompress.engines.optuna.constraints import set_accuracy_margin
    from autocompress.engines.optuna.sampler import AdaptiveCompressionPruner, AdaptiveCompressionSampler
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
    from autocompress.formats.checkpoint import load_compressed
    from autocompress.formats.export import ExportReport, export
    from autocompress.nncf import CompressionConfig
    from autocompress.nncf.controller import CompressionController
    from autocompress.nncf.create import create_compressed_model, load_state, register_default_init_args
    from autocompress.nncf.statistics import CompressionStage
    from autocompress.records import Baseline, Measurement, Proposal, TrialRecord
    from autocompress.registry import register_algorithm
    from autocompress.report.comparison import Comparison
    from autocompress.result import CompressionResult
    from autocompress.search import Position, StepHalving
    from autocompress.search_space import AutoCompressionSearchSpaceGenerator
    from autocompress.settings import AccuracyAwareSettings
    from autocompress.tracking import Callback
    from autocompress.tracking.mlflow import MlflowCallback
    from autocompress.tracking.tensorboard import TensorBoardCallback
    from autocompress.tracking.wandb import WandbCallback
    from autocompress.trial import run_trial
    from autocompress.trial.check import AlgorithmCheck, check_module

TorchvisionFinder.install()

_HOMES = {
    "AbstractAutoCompressionModule": "autocompress.compression.module",
    "AccuracyAwareSettings": "autocompress.settings",
    "AccuracyBudget": "autocompress.budget",
    "AdaptiveCompressionPruner": "autocompress.engines.optuna.sampler",
    "AdaptiveCompressionSampler": "autocompress.engines.optuna.sampler",
    "AdaptiveCompressionTrainingLoop": "autocompress.engines.local.loop",
    "AlgorithmCheck": "autocompress.trial.check",
    "AutoCompressError": "autocompress.errors",
    "AutoCompressionExperiment": "autocompress.engines.nni",
    "AutoCompressionSearchSpaceGenerator": "autocompress.search_space",
    "Baseline": "autocompress.records",
    "Callback": "autocompress.tracking",
    "Comparison": "autocompress.report.comparison",
    "CompressionConfig": "autocompress.nncf",
    "CompressionController": "autocompress.nncf.controller",
    "CompressionError": "autocompress.errors",
    "CompressionResult": "autocompress.result",
    "CompressionStage": "autocompress.nncf.statistics",
    "CompressionStudy": "autocompress.engines.optuna.study",
    "ConfigError": "autocompress.errors",
    "EarlyExitCompressionTrainingLoop": "autocompress.engines.local.loop",
    "EngineError": "autocompress.errors",
    "ExportReport": "autocompress.formats.export",
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
    "check_module": "autocompress.trial.check",
    "compare_tuners": "autocompress.compare.compare_tuners",
    "create_accuracy_aware_training_loop": "autocompress.engines.local.factory",
    "create_compressed_model": "autocompress.nncf.create",
    "export": "autocompress.formats.export",
    "load_compressed": "autocompress.formats.checkpoint",
    "load_state": "autocompress.nncf.create",
    "register_algorithm": "autocompress.registry",
    "register_default_init_args": "autocompress.nncf.create",
    "register_module": "autocompress.compression.layers",
    "run_trial": "autocompress.trial",
    "set_accuracy_margin": "autocompress.engines.optuna.constraints",
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
    "register_algorithm",
    "register_default_init_args",
    "register_module",
    "run_trial",
    "set_accuracy_margin",
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
