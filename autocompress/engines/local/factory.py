"""From a configuration and a controller to the training loop that its accuracy budget describes."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.compression.model_state import hash_tensors
from autocompress.engines.local.loop import AdaptiveCompressionTrainingLoop, EarlyExitCompressionTrainingLoop
from autocompress.engines.local.runner import TorchRunner
from autocompress.errors import ConfigError
from autocompress.evaluation import as_number
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.controller import CompressionController
from autocompress.nncf.sections import SECTION, Distillation, Quantization
from autocompress.nncf.translation import DEFAULT_BOUNDS, settings_of
from autocompress.plan import ADAPTIVE_TUNER, EARLY_EXIT, ExperimentPlan, LoopPlan
from autocompress.records import Baseline
from autocompress.registry import MIX
from autocompress.settings import AccuracyAwareSettings, AdaptiveParams


@checked_arguments
def create_accuracy_aware_training_loop(
    config: CompressionConfig,
    compression_ctrl: CompressionController,
    uncompressed_model_accuracy: Any,
    *,
    minimal_compression_rate: float = DEFAULT_BOUNDS[0],
    maximal_compression_rate: float = DEFAULT_BOUNDS[1],
    masked: bool = False,
    validate_before_training: bool = False,
    higher_is_better: bool = True,
    seed: int = 0,
) -> AdaptiveCompressionTrainingLoop | EarlyExitCompressionTrainingLoop:
    """Make the training loop of the section `accuracy_aware_training`.

    Args:
        config: with that section.
        compression_ctrl: of `create_compressed_model`.
        uncompressed_model_accuracy: in the metric's unit.
        minimal_compression_rate: lowest rate of the search.
        maximal_compression_rate: highest rate of the search.
        masked: filters are masked between rates and may come back, as in NNCF; by default they are removed, so that
            epochs get faster.
        validate_before_training: a rate whose model is within the budget as soon as it is compressed is not trained,
            which saves epochs; NNCF trains each rate for at least one.
        higher_is_better: direction of the metric.
        seed: each rate begins with.

    Raises:
        ConfigError: the section is missing, an argument is out of its range, or the schedule leads out of the bounds.
    """
    training = config.accuracy_aware_training
    if training is None:
        raise ConfigError(f"{SECTION} must be given: an object with mode and params")
    baseline = _baseline(config, compression_ctrl, uncompressed_model_accuracy, higher_is_better)
    runner = TorchRunner(compression_ctrl, masked=masked)
    if not isinstance(training.params, AdaptiveParams):
        params = training.params.model_dump(exclude_none=True)
        exiting = AccuracyAwareSettings.from_dict({"preset": "nncf", **params, "seed": seed})
        return EarlyExitCompressionTrainingLoop(_plan(config, compression_ctrl, baseline, exiting), runner)
    settings = settings_of(config).with_changes(
        {
            "initial_compression_rate": compression_ctrl.level_after(training.params.initial_training_phase_epochs),
            "minimal_compression_rate": minimal_compression_rate,
            "maximal_compression_rate": maximal_compression_rate,
            "validate_before_training": validate_before_training,
            "seed": seed,
        }
    )
    _require_within_bounds(settings)
    return AdaptiveCompressionTrainingLoop(_plan(config, compression_ctrl, baseline, settings), runner)


def _require_within_bounds(settings: AccuracyAwareSettings) -> None:
    low, high = settings.minimal_compression_rate, settings.maximal_compression_rate
    rate = settings.initial_compression_rate
    if not low <= rate <= high:
        raise ConfigError(
            f"the schedule must lead to a compression rate between minimal_compression_rate ({low!r}) and "
            f"maximal_compression_rate ({high!r}); it leads to {rate!r}"
        )


def _plan(
    config: CompressionConfig,
    controller: CompressionController,
    baseline: Baseline,
    settings: AccuracyAwareSettings,
) -> ExperimentPlan:
    assert config.accuracy_aware_training is not None
    mode = config.accuracy_aware_training.mode
    name = type(controller.uncompressed.original).__name__
    return ExperimentPlan(
        module={},
        search_space={},
        settings=settings,
        objective="rate",
        tuner=EARLY_EXIT if mode == EARLY_EXIT else ADAPTIVE_TUNER,
        engine=LoopPlan(name, _algorithm(config), mode, config.model_dump(mode="json")),
        baseline=baseline,
    )


def _algorithm(config: CompressionConfig) -> str:
    """The name that records have: pruning or sparsity before quantization, as in a mix."""
    sections = [section for section in config.compression if not isinstance(section, Distillation)]
    ordered = sorted(sections, key=lambda section: isinstance(section, Quantization))
    names = ["qat" if isinstance(section, Quantization) else section.algorithm for section in ordered]
    return MIX.join(names) or "knowledge_distillation"


def _baseline(
    config: CompressionConfig, controller: CompressionController, accuracy: Any, higher_is_better: bool
) -> Baseline:
    number = as_number(accuracy)
    if number is None or not math.isfinite(number):
        raise ConfigError(f"uncompressed_model_accuracy must be a finite number; got {accuracy!r}")
    return Baseline(
        accuracy=number,
        holdout_accuracy=None,
        higher_is_better=higher_is_better,
        measurement=controller.uncompressed.size,
        fingerprint=_fingerprint(config, controller.uncompressed.original),
        seconds=0.0,
    )


def _fingerprint(config: CompressionConfig, model: nn.Module) -> str:
    """Hash of the configuration and of the uncompressed model's weights."""
    digest = hashlib.sha256(config.model_dump_json(exclude={"log_dir"}).encode())
    hash_tensors(digest, model.state_dict().items())
    return digest.hexdigest()
