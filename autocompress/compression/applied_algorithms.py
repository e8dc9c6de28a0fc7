"""Algorithms on one model: applied in their order, finished in reverse. Trials, checks and NNCF's controller use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from autocompress.compression.base import Compression, CompressionRequest, compressor, left_alone
from autocompress.compression.batchnorm import recalibrate


@dataclass
class AppliedAlgorithms:
    """The algorithms on a model.

    Attributes:
        compressions: of each algorithm, in the order they were applied.
    """

    compressions: list[Compression] = field(default_factory=list)

    def apply(self, model: nn.Module, request: CompressionRequest, batches: Iterable[Any] | None = None) -> nn.Module:
        """Apply one more algorithm.

        Args:
            model: changed; not to be used afterwards.
            request: of the algorithm.
            batches: data on which BatchNorm's statistics are estimated again; None: they stay.

        Returns:
            the model to fine-tune.

        Raises:
            AutoCompressError: the algorithm cannot be applied; see `Compressor.compress`.
        """
        compression = compressor(request.algorithm).compress(model, request)
        self.compressions.append(compression)
        if batches is not None:
            recalibrate(compression.model, batches)
        return compression.model

    def finish(self, model: nn.Module) -> nn.Module:
        """Make the model, or a copy of it, a plain model that computes the same; the model given is changed."""
        for compression in reversed(self.compressions):
            model = compression.finish(model)
        return model

    @property
    def simulated(self) -> bool:
        """Whether the finished model computes in floating point what other kernels would in fewer bits."""
        return any(each.simulated for each in self.compressions)

    @property
    def converts(self) -> bool:
        """Whether finishing changes what the model computes."""
        return any(each.converts for each in self.compressions)

    @property
    def left_alone(self) -> dict[str, str]:
        """Layers that keep their filters although a rule selects them, each with the reason."""
        return {name: why for each in self.compressions for name, why in left_alone(each).items()}
