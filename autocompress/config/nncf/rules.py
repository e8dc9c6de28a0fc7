"""Rules between the sections of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from autocompress.config.nncf.algorithms import (
    ADAPTIVE,
    Compression,
    FilterPruning,
    MagnitudeSparsity,
    Quantization,
    RbSparsity,
    SparsityParams,
)
from autocompress.config.nncf.training import AccuracyAwareTraining
from autocompress.errors import ConfigError


def check_algorithms(compression: Sequence[Compression], training: AccuracyAwareTraining | None) -> None:
    """Check that the algorithms go together, and with the mode of training.

    Raises:
        ConfigError: an algorithm is given twice, its options contradict each other, or there is not exactly one rate
            for the adaptive mode to move.
    """
    if not compression:
        raise ConfigError("compression must have at least one algorithm; got []")
    names = [section.algorithm for section in compression]
    for index, section in enumerate(compression):
        where = f"compression[{index}]" if len(compression) > 1 else "compression"
        if names.index(section.algorithm) != index:
            raise ConfigError(f"{where}.algorithm must be another one; {section.algorithm!r} is given twice")
        if isinstance(section, MagnitudeSparsity | RbSparsity):
            _check_multistep(section.params, f"{where}.params")
        if isinstance(section, FilterPruning):
            _check_targets(section, f"{where}.params")
        if isinstance(section, Quantization) and section.activations.per_channel:
            raise ConfigError(f"{where}.activations.per_channel must be false: activations have one range; got true")
    if training is not None and training.mode == "adaptive_compression_level":
        _check_adaptive(compression)


def _check_adaptive(compression: Sequence[Compression]) -> None:
    names = [section.algorithm for section in compression]
    rates = [section.algorithm for section in compression if isinstance(section, (*ADAPTIVE, RbSparsity))]
    if len(rates) != 1 or not any(isinstance(section, ADAPTIVE) for section in compression):
        raise ConfigError(
            "in adaptive mode compression must have one of filter_pruning and magnitude_sparsity, whose rate the "
            f"search moves, and no other pruning or sparsity; got {', '.join(names)}"
        )


def _check_multistep(params: SparsityParams, where: str) -> None:
    if params.schedule != "multistep":
        return
    steps, levels = params.multistep_steps, params.multistep_sparsity_levels or ()
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ConfigError(f"{where}.multistep_steps must rise; got {list(steps)!r}")
    if len(levels) != len(steps) + 1:
        raise ConfigError(
            f"{where}.multistep_sparsity_levels must have {len(steps) + 1} levels, one more than multistep_steps; "
            f"got {list(levels)!r}"
        )


def _check_targets(section: FilterPruning, where: str) -> None:
    params = section.params
    if params.pruning_target is not None and params.pruning_flops_target is not None:
        raise ConfigError(
            f"{where} must have one of pruning_target and pruning_flops_target; got both "
            f"({params.pruning_target!r}, {params.pruning_flops_target!r})"
        )
    if params.filter_importance is not None and params.weight_importance is not None:
        raise ConfigError(f"{where} must have filter_importance once; weight_importance is the older name of it")
