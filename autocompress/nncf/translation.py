"""From an NNCF-style configuration to an experiment's search space and settings, and to the compressors' requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from autocompress.compression.base import CompressionRequest
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.module import AbstractAutoCompressionModule, ModuleClass, batch_input
from autocompress.compression.pruning.pruner import ALLOCATION, PROBED
from autocompress.errors import ConfigError
from autocompress.layer_selector import ALL_LAYERS, LayerRule
from autocompress.nncf.algorithms import RequestAtLevel
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.sections import (
    SECTION,
    Compression,
    Distillation,
    FilterPruning,
    MagnitudeSparsity,
    Quantization,
    RbSparsity,
)
from autocompress.registry import MIX
from autocompress.search_space.generator import AutoCompressionSearchSpaceGenerator
from autocompress.settings import AccuracyAwareSettings, AdaptiveParams

DEFAULT_BOUNDS = (0.0, 0.95)
"""NNCF's lowest and highest rate."""

_ALL = [ALL_LAYERS]
_PROBE_SAMPLES = 1024
"""On which the sensitivity of layers is measured."""


def settings_of(config: CompressionConfig) -> AccuracyAwareSettings:
    """The settings of the search.

    The search begins at the schedule's target. Only the training loop follows the schedule; trials begin compressed.

    Raises:
        ConfigError: the configuration is not in adaptive mode.
    """
    params = adaptive_params(config).model_dump()
    teachers = [each for each in config.compression if isinstance(each, Distillation)]
    taught = [each.model_dump(exclude={"algorithm"}) for each in teachers]
    return AccuracyAwareSettings.from_dict(
        {
            "preset": "nncf",
            **{name: value for name, value in params.items() if value is not None},
            "initial_compression_rate": _initial_rate(config),
            "knowledge_distillation": taught[0] if taught else None,
        }
    )


def adaptive_params(config: CompressionConfig) -> AdaptiveParams:
    """The parameters of the adaptive search.

    Raises:
        ConfigError: the configuration has none.
    """
    training = config.accuracy_aware_training
    if training is None:
        raise ConfigError(f"{SECTION} must be given: an object with mode and params")
    if not isinstance(training.params, AdaptiveParams):
        raise ConfigError(
            f"{SECTION}.mode must be 'adaptive_compression_level', which searches a rate; got {training.mode!r}"
        )
    return training.params


def search_space_of(config: CompressionConfig) -> dict[str, Any]:
    """The search space of an experiment, in NNI's wire format.

    Args:
        config: in adaptive mode.

    Raises:
        ConfigError: the algorithms of a mix have different scopes, or int8 kernels do not support the quantization.
    """
    adaptive_params(config)
    pruners = [each for each in config.compression if isinstance(each, FilterPruning | MagnitudeSparsity)]
    quantizers = [each for each in config.compression if isinstance(each, Quantization)]
    name = MIX.join([pruners[0].algorithm, *("qat" for _ in quantizers)])
    entries: list[dict[str, Any]] = [
        {"sparsity": {"_type": "uniform", "_value": list(DEFAULT_BOUNDS)}, "op_types": _ALL}
    ]
    entries += [_quantized(each) for each in quantizers]
    generator = AutoCompressionSearchSpaceGenerator()
    generator.add_config(name, entries, **options_of(pruners[0]), **_scopes(config, [*pruners, *quantizers]))
    return generator.dumps()


def _initial_rate(config: CompressionConfig) -> float:
    """The rate that the search begins with."""
    for section in config.compression:
        if isinstance(section, FilterPruning):
            return section.params.target
        if isinstance(section, MagnitudeSparsity):
            levels = section.params.multistep_sparsity_levels
            multistep = section.params.schedule == "multistep" and levels
            return levels[-1] if multistep and levels else section.params.sparsity_target
    raise ConfigError("compression must have filter_pruning or magnitude_sparsity; it has neither")


def options_of(section: FilterPruning | MagnitudeSparsity) -> dict[str, Any]:
    """The arguments of the algorithm's compressor, its scopes left out."""
    if isinstance(section, MagnitudeSparsity):
        return section.params.model_dump(include={"weight_importance", "sparsity_level_setting_mode"})
    kept = section.params.model_dump(include={"all_weights", "prune_first_conv", "prune_downsample_convs"})
    kept |= {} if section.params.allocation is None else {ALLOCATION.name: section.params.allocation}
    of = {} if section.params.pruning_flops_target is None else {"rate_of": "macs"}
    return {"filter_importance": section.params.importance, **kept, **of}


def _quantized(section: Quantization) -> dict[str, Any]:
    """Int8 kernels determine the scales: weights by channel and symmetric."""
    if section.weights.mode == "asymmetric":
        raise ConfigError("quantization.weights.mode must be 'symmetric' in an experiment; got 'asymmetric'")
    bits = {"weight": section.weights.bits, "output": section.activations.bits}
    return {"quant_types": ["weight", "output"], "quant_bits": bits, "op_types": _ALL}


def _scopes(config: CompressionConfig, sections: Sequence[Compression]) -> dict[str, Any]:
    found = {all_scopes(config, section) for section in sections}
    if len(found) > 1:
        raise ConfigError(
            "in an experiment the algorithms of a mix must have the same ignored_scopes and target_scopes; they have "
            + " and ".join(str(scopes) for scopes in sorted(found))
        )
    ignored, target = found.pop()
    validated = config.validate_scopes and all(getattr(section, "validate_scopes", True) for section in sections)
    return {
        **({"ignored_scopes": list(ignored)} if ignored else {}),
        **({"target_scopes": list(target)} if target else {}),
        **({} if validated else {"validate_scopes": False}),
    }


def all_scopes(config: CompressionConfig, section: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ignored and the target scopes of one algorithm, including those of the whole configuration."""
    return _joined(config.ignored_scopes, section.ignored_scopes), _joined(config.target_scopes, section.target_scopes)


def _joined(*scopes: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scope for some in scopes for scope in some))


_MODES = {"performance": "symmetric", "mixed": "asymmetric"}
"""Preset -> mode of activations."""


class Requests:
    """Makes the compressors' requests for one model from a configuration's sections."""

    def __init__(self, config: CompressionConfig, reference: ReferenceModel) -> None:
        self._config, self._reference = config, reference

    def at_level(self, section: FilterPruning | MagnitudeSparsity | RbSparsity) -> RequestAtLevel:
        """From a level to the request."""
        options = {} if isinstance(section, RbSparsity) else options_of(section)
        arguments = {**options, **self._scopes(section)}
        module = _module_of(self._config, _PROBE_SAMPLES) if options.get(ALLOCATION.name) in PROBED else None
        return lambda level: self._reference.request(
            section.algorithm, (LayerRule(op_types=(ALL_LAYERS,), rate=level),), arguments, module
        )

    def quantization(self, section: Quantization) -> CompressionRequest:
        """The quantizer's request."""
        activations, samples = section.activations, section.initializer.range.num_init_samples
        target = LayerRule(
            op_types=(ALL_LAYERS,),
            quant_types=("weight", "output"),
            quant={
                "quant_bits": {"weight": section.weights.bits, "output": section.activations.bits},
                "quant_scheme": {
                    "weight": _scheme(section.weights.mode, per_channel=bool(section.weights.per_channel)),
                    "output": _scheme(activations.mode or _MODES[section.preset]),
                },
            },
        )
        return self._reference.request("qat", (target,), self._scopes(section), _module_of(self._config, samples))

    def _scopes(self, section: Any) -> dict[str, Any]:
        ignored, targets = all_scopes(self._config, section)
        validate = self._config.validate_scopes and section.validate_scopes
        return {"ignored_scopes": ignored, "target_scopes": targets, "validate_scopes": validate}


def _scheme(mode: str | None, *, per_channel: bool = False) -> str:
    return f"per_{'channel' if per_channel else 'tensor'}_{'affine' if mode == 'asymmetric' else 'symmetric'}"


def _module_of(config: CompressionConfig, samples: int) -> ModuleClass | None:
    """A module that has the first samples of the registered data as calibration data; None without data."""
    if config.data is None:
        return None

    def calibration_data(_: ModuleClass) -> Iterable[Any]:
        return first_samples(config.data, samples)

    return type("RegisteredData", (AbstractAutoCompressionModule,), {"calibration_data": classmethod(calibration_data)})


def first_samples(data: Iterable[Any], samples: int) -> Iterator[Any]:
    """The model's inputs in the first batches, up to a number of samples; an input that is no tensor counts as one."""
    left = samples
    for batch in data:
        if left <= 0:
            return
        inputs = batch_input(batch)
        if isinstance(inputs, torch.Tensor) and inputs.dim():
            inputs = inputs[:left]
            left -= inputs.shape[0]
        else:
            left -= 1
        yield inputs
