"""From a configuration's sections to what compressors are asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from autocompress.compression.base import CompressionRequest, LayerShape
from autocompress.compression.hooks import batch_input
from autocompress.compression.module import AbstractAutoCompressionModule, ModuleClass
from autocompress.layer_selector import LayerRule
from autocompress.nncf.algorithms import Ask
from autocompress.nncf.config import CompressionConfig
from autocompress.nncf.search_translation import all_scopes, options_of
from autocompress.nncf.sections import FilterPruning, MagnitudeSparsity, Quantization, RbSparsity
from autocompress.records import Measurement

_ALL = ("default",)
_MODES = {"performance": "symmetric", "mixed": "asymmetric"}
"""Preset -> mode of activations."""


class Requests:
    """Makes requests about one model.

    Args:
        config: whose sections they are made from.
        inputs: positional arguments of one forward pass.
        shapes: of the uncompressed model's layers.
        size: of the uncompressed model.
    """

    def __init__(
        self,
        config: CompressionConfig,
        inputs: tuple[Any, ...],
        shapes: dict[str, LayerShape],
        size: Measurement,
    ) -> None:
        self._config, self._inputs, self._shapes, self._size = config, inputs, shapes, size

    def at_level(self, section: FilterPruning | MagnitudeSparsity | RbSparsity) -> Ask:
        """What a level of a section asks."""
        options = {} if isinstance(section, RbSparsity) else options_of(section)
        return lambda level: self._request(section, LayerRule(op_types=_ALL, rate=level), options)

    def quantization(self, section: Quantization) -> CompressionRequest:
        """What a section asks of the quantizer."""
        activations = section.activations
        target = LayerRule(
            op_types=_ALL,
            quant_types=("weight", "output"),
            quant={
                "quant_bits": {"weight": section.weights.bits, "output": section.activations.bits},
                "quant_scheme": {
                    "weight": _scheme(section.weights.mode, by_channel=bool(section.weights.per_channel)),
                    "output": _scheme(activations.mode or _MODES[section.preset]),
                },
            },
        )
        return self._request(section, target, {}, algorithm="qat", module=_module_of(self._config, section))

    def _request(
        self,
        section: Any,
        target: LayerRule,
        options: dict[str, Any],
        *,
        algorithm: str | None = None,
        module: ModuleClass | None = None,
    ) -> CompressionRequest:
        ignored, targets = all_scopes(self._config, section)
        validate = self._config.validate_scopes and section.validate_scopes
        scopes = {"ignored_scopes": ignored, "target_scopes": targets, "validate_scopes": validate}
        return CompressionRequest(
            algorithm=algorithm or section.algorithm,
            targets=(target,),
            example_inputs=self._inputs,
            original=self._shapes,
            arguments={**options, **scopes},
            module=module,
            uncompressed=self._size,
        )


def _scheme(mode: str | None, *, by_channel: bool = False) -> str:
    return f"per_{'channel' if by_channel else 'tensor'}_{'affine' if mode == 'asymmetric' else 'symmetric'}"


def _module_of(config: CompressionConfig, section: Quantization) -> ModuleClass | None:
    """Brings the registered data to where a user's module would; None without data."""
    if config.data is None:
        return None
    samples = section.initializer.range.num_init_samples

    def calibration_data(_: ModuleClass) -> Iterable[Any]:
        return first_samples(config.data, samples)

    return type("RegisteredData", (AbstractAutoCompressionModule,), {"calibration_data": classmethod(calibration_data)})


def first_samples(data: Iterable[Any], samples: int) -> Iterator[Any]:
    """The model's inputs in the first batches, until there are so many samples; what is no tensor counts as one."""
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
