"""From a configuration's sections to the compressors' requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from autocompress.compression.base import CompressionRequest
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.module import AbstractAutoCompressionModule, ModuleClass, batch_input
from autocompress.layer_selector import LayerRule
from autocompress.nncf.algorithms import RequestAtLevel
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.search_translation import all_scopes, options_of
from autocompress.nncf.sections import FilterPruning, MagnitudeSparsity, Quantization, RbSparsity

_ALL = ("default",)
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
        return lambda level: self._reference.request(
            section.algorithm, (LayerRule(op_types=_ALL, rate=level),), arguments
        )

    def quantization(self, section: Quantization) -> CompressionRequest:
        """The quantizer's request."""
        activations = section.activations
        target = LayerRule(
            op_types=_ALL,
            quant_types=("weight", "output"),
            quant={
                "quant_bits": {"weight": section.weights.bits, "output": section.activations.bits},
                "quant_scheme": {
                    "weight": _scheme(section.weights.mode, per_channel=bool(section.weights.per_channel)),
                    "output": _scheme(activations.mode or _MODES[section.preset]),
                },
            },
        )
        return self._reference.request("qat", (target,), self._scopes(section), _module_of(self._config, section))

    def _scopes(self, section: Any) -> dict[str, Any]:
        ignored, targets = all_scopes(self._config, section)
        validate = self._config.validate_scopes and section.validate_scopes
        return {"ignored_scopes": ignored, "target_scopes": targets, "validate_scopes": validate}


def _scheme(mode: str | None, *, per_channel: bool = False) -> str:
    return f"per_{'channel' if per_channel else 'tensor'}_{'affine' if mode == 'asymmetric' else 'symmetric'}"


def _module_of(config: CompressionConfig, section: Quantization) -> ModuleClass | None:
    """A module that has the registered data as calibration data; None without data."""
    if config.data is None:
        return None
    samples = section.initializer.range.num_init_samples

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
