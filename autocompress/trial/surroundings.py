"""The uncompressed model of a trial, and what compressors and measurements need to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from autocompress.compress.base import CompressionRequest, LayerShape, layer_shapes
from autocompress.compress.hooks import example_inputs, fresh_model
from autocompress.compress.measure import measure
from autocompress.compress.module import ModuleClass
from autocompress.records import Measurement
from autocompress.trial.order import Stage


@dataclass(frozen=True)
class Surroundings:
    """The uncompressed model.

    Attributes:
        original: the model; not changed.
        inputs: positional arguments of one forward pass.
        shapes: sizes of its layers.
        size: its size.
    """

    original: nn.Module
    inputs: tuple[Any, ...]
    shapes: Mapping[str, LayerShape]
    size: Measurement

    @classmethod
    def of(cls, module: ModuleClass) -> Surroundings:
        """Ask the user's module.

        Raises:
            ModuleError: a hook returns something unusable.
        """
        original, inputs = fresh_model(module), example_inputs(module)
        return cls(original, inputs, layer_shapes(original), measure(original, inputs))

    def request(self, stage: Stage, module: ModuleClass) -> CompressionRequest:
        """What a stage asks of its compressor."""
        return CompressionRequest(
            algorithm=stage.name,
            targets=stage.targets,
            example_inputs=self.inputs,
            original=self.shapes,
            arguments=stage.choice.arguments,
            module=module,
            uncompressed=self.size,
        )
