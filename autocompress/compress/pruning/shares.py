"""Rates that are a share of the whole model's parameters or MACs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autocompress.compress.base import CompressionRequest
from autocompress.compress.measure import macs, parameters


@dataclass(frozen=True)
class Share:
    """Parameters or MACs of the whole model as what a rate counts.

    Attributes:
        of: "parameters" or "macs".
        total: of the uncompressed model.
        request: its example inputs are counted with.
    """

    of: str
    total: int
    request: CompressionRequest

    @classmethod
    def wanted(cls, model: nn.Module, request: CompressionRequest) -> Share | None:
        """What a request's rate counts; None: filters."""
        of = str(request.argument("rate_of"))
        if of == "filters":
            return None
        if request.uncompressed is not None:
            return cls(of, getattr(request.uncompressed, of), request)
        return cls(of, _counted(model, of, request), request)

    def removed(self, model: nn.Module) -> float:
        """The share that is gone."""
        return 1 - _counted(model, self.of, self.request) / self.total if self.total else 0.0


def _counted(model: nn.Module, of: str, request: CompressionRequest) -> int:
    return parameters(model) if of == "parameters" else macs(model, request.example_inputs)
