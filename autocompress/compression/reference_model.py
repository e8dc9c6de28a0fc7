"""The uncompressed model, which sizes and rates are relative to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shapes
from autocompress.compression.hooks import example_inputs, fresh_model
from autocompress.compression.measure import measure
from autocompress.compression.model_state import output_shapes
from autocompress.compression.module import ModuleClass
from autocompress.errors import CompressionError
from autocompress.layer_selector import LayerRule
from autocompress.records import Measurement


@dataclass(frozen=True)
class ReferenceModel:
    """The uncompressed model.

    Attributes:
        original: the model; not changed.
        inputs: positional arguments of one forward pass.
        shapes: sizes of its layers.
        size: its size.
        data: batches of training data, which can be iterated over repeatedly; None where none are known.
    """

    original: nn.Module
    inputs: tuple[Any, ...]
    shapes: Mapping[str, LayerShape]
    size: Measurement
    data: Any = None

    @classmethod
    def of(cls, module: ModuleClass) -> ReferenceModel:
        """The model of a user's module.

        Raises:
            ModuleError: a hook returns something unusable.
        """
        return cls.measured(fresh_model(module), example_inputs(module))

    @classmethod
    def measured(cls, original: nn.Module, inputs: tuple[Any, ...], data: Any = None) -> ReferenceModel:
        """Measure a model."""
        return cls(original, inputs, layer_shapes(original), measure(original, inputs), data)

    @cached_property
    def output_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the outputs of one forward pass."""
        return output_shapes(self.original, self.inputs)

    def request(
        self,
        algorithm: str,
        targets: tuple[LayerRule, ...],
        arguments: Mapping[str, Any],
        module: ModuleClass | None = None,
    ) -> CompressionRequest:
        """The request of an algorithm on this model, or on one that was compressed before."""
        return CompressionRequest(
            algorithm=algorithm,
            targets=targets,
            example_inputs=self.inputs,
            original=self.shapes,
            arguments=arguments,
            module=module,
            uncompressed=self.size,
        )

    def require_shapes(self, model: nn.Module) -> None:
        """Check that a compressed model has outputs of the same shapes.

        Raises:
            CompressionError: its forward pass fails, or they are others.
        """
        try:
            found = output_shapes(model, self.inputs)
        except Exception as error:
            raise CompressionError(
                f"the model must run without the removed filters; its forward pass fails: {error}"
            ) from error
        if found != self.output_shapes:
            raise CompressionError(f"the output's shape must not change; {self.output_shapes} became {found}")
