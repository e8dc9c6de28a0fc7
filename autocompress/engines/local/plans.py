"""What a loop does, as it is written to `experiment.json`: the same plan as an experiment's, from a configuration."""

from __future__ import annotations

from typing import Any

from autocompress.errors import ConfigError
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.search_translation import search_space_of, settings_of
from autocompress.nncf.sections import SECTION, AccuracyAwareTraining, Distillation, Quantization
from autocompress.plan import ADAPTIVE_TUNER, ExperimentPlan, LocalEngine
from autocompress.records import Baseline
from autocompress.search import Search, SingleTrial
from autocompress.settings import AccuracyAwareSettings

EARLY_EXIT = "EarlyExit"
"""Stands where other plans name their tuner."""

_ENGINE = "inprocess"


def adaptive_plan(
    config: CompressionConfig,
    baseline: Baseline,
    *,
    initial_rate: float,
    bounds: tuple[float, float],
    validate_before_training: bool,
    seed: int,
) -> ExperimentPlan:
    """The plan of an adaptive search.

    Args:
        config: in adaptive mode.
        baseline: the uncompressed model.
        initial_rate: in force when the initial training phase ends.
        bounds: lowest and highest rate.
        validate_before_training: whether a rate that is within the budget without training is not trained.
        seed: of each trial.

    Raises:
        ConfigError: the configuration does not ask for a search, or the initial rate is out of bounds.
    """
    low, high = bounds
    if not low <= initial_rate <= high:
        raise ConfigError(
            f"the schedule must lead to a compression rate between minimal_compression_rate ({low!r}) and "
            f"maximal_compression_rate ({high!r}); it leads to {initial_rate!r}"
        )
    settings = settings_of(config).with_changes(
        {
            "initial_compression_rate": initial_rate,
            "minimal_compression_rate": low,
            "maximal_compression_rate": high,
            "validate_before_training": validate_before_training,
            "seed": seed,
        }
    )
    return _plan(config, baseline, settings, ADAPTIVE_TUNER, search_space_of(config, bounds, simulated=True))


def early_exit_plan(config: CompressionConfig, baseline: Baseline, *, seed: int) -> ExperimentPlan:
    """The plan of training until the accuracy is within the budget."""
    params = training_of(config).params.model_dump(exclude_none=True)
    settings = AccuracyAwareSettings.from_dict({**params, "seed": seed})
    return _plan(config, baseline, settings, EARLY_EXIT, {})


def training_of(config: CompressionConfig) -> AccuracyAwareTraining:
    """The section of the accuracy budget.

    Raises:
        ConfigError: there is none.
    """
    if config.accuracy_aware_training is None:
        raise ConfigError(f"{SECTION} must be given: an object with mode and params")
    return config.accuracy_aware_training


def searches(plan: ExperimentPlan, initial_rate: float | None) -> tuple[Search, ...]:
    """What the plan searches.

    Args:
        plan: of a loop.
        initial_rate: that the first trial ended with, which its schedule may not have reached; None before it.
    """
    if plan.tuner == EARLY_EXIT:
        return (SingleTrial(algorithm_of(plan), plan.settings.maximal_total_epochs, plan.settings.seed),)
    if initial_rate is None:
        return plan.searches
    settings = plan.settings.with_changes({"initial_compression_rate": initial_rate})
    return settings.searches(plan.space)


def algorithm_of(plan: ExperimentPlan) -> str:
    """The name that records have."""
    return plan.engine_as(LocalEngine).algorithm


def _plan(
    config: CompressionConfig,
    baseline: Baseline,
    settings: AccuracyAwareSettings,
    tuner: str,
    search_space: dict[str, Any],
) -> ExperimentPlan:
    trained = [section.algorithm for section in config.compression if not isinstance(section, Distillation)]
    names = [name for name in trained if name != "quantization"]
    quantized = ["qat" for section in config.compression if isinstance(section, Quantization)]
    return ExperimentPlan(
        module={"class_name": "your model"},
        search_space=search_space,
        settings=settings,
        objective="rate",
        tuner=tuner,
        engine=LocalEngine("+".join([*names, *quantized]) or "knowledge_distillation", config.model_dump(mode="json")),
        baseline=baseline,
    )
