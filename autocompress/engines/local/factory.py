"""From a configuration and a controller to the loop that it asks for."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from autocompress.argument_checks import checked_arguments
from autocompress.engines.local.functions import as_number
from autocompress.engines.local.loop import AdaptiveCompressionTrainingLoop, EarlyExitCompressionTrainingLoop
from autocompress.engines.local.plans import adaptive_plan, early_exit_plan, training_of
from autocompress.engines.local.runner import TorchRunner
from autocompress.errors import ConfigError
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.controller import CompressionController
from autocompress.nncf.search_translation import DEFAULT_BOUNDS
from autocompress.records import Baseline
from autocompress.settings import AdaptiveParams


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
    """The loop that the section `accuracy_aware_training` asks for.

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
    training = training_of(config)
    baseline = _baseline(config, compression_ctrl, uncompressed_model_accuracy, higher_is_better)
    runner = TorchRunner(compression_ctrl, masked=masked)
    if not isinstance(training.params, AdaptiveParams):
        return EarlyExitCompressionTrainingLoop(early_exit_plan(config, baseline, seed=seed), runner)
    plan = adaptive_plan(
        config,
        baseline,
        initial_rate=compression_ctrl.level_after(training.params.initial_training_phase_epochs),
        bounds=(minimal_compression_rate, maximal_compression_rate),
        validate_before_training=validate_before_training,
        seed=seed,
    )
    return AdaptiveCompressionTrainingLoop(plan, runner)


def _baseline(
    config: CompressionConfig, controller: CompressionController, accuracy: Any, higher_is_better: bool
) -> Baseline:
    number = as_number(accuracy)
    if number is None or number != number or abs(number) == float("inf"):
        raise ConfigError(f"uncompressed_model_accuracy must be a finite number; got {accuracy!r}")
    return Baseline(
        accuracy=number,
        holdout_accuracy=None,
        higher_is_better=higher_is_better,
        measurement=controller.uncompressed.size,
        fingerprint=_fingerprint(config, controller.uncompressed.model),
        seconds=0.0,
    )


def _fingerprint(config: CompressionConfig, model: nn.Module) -> str:
    """Hash of the configuration and of the uncompressed model's weights."""
    digest = hashlib.sha256(config.model_dump_json(exclude={"log_dir"}).encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
