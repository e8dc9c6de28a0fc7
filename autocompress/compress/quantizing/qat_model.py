"""A model under quantization-aware training, as torchao prepares it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from autocompress.compress.quantizing.modes import switch
from autocompress.compress.state import device_of, moved
from autocompress.errors import CompressionError, first_line


class QatModel(nn.Module):
    """Rounds weights and activations to 8 bits; observers look at values in training mode only.

    Args:
        graph: prepared by torchao.
        start_step: forward passes in training mode before anything is rounded.
    """

    def __init__(self, graph: fx.GraphModule, start_step: int = 0) -> None:
        super().__init__()
        self.graph, self.start_step = graph, start_step
        self._steps = 0
        self._mode = not self.training
        self.train(self.training)

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """As the model's that was exported."""
        if self._mode != self.training:  # the flag was set without `train`
            self.train(self.training)
        if self.training and self._steps <= self.start_step:
            self._call("enable_fake_quant", self._steps == self.start_step)
            self._steps += 1
        return self.graph(*arguments, **keywords)

    def train(self, mode: bool = True) -> QatModel:
        """Switch dropout, normalization and observers."""
        if self._mode != mode:
            switch(self.graph, training=mode)
            self._observe(mode)
            self._call("enable_fake_quant", not mode or self._steps > self.start_step)
        self.training = self._mode = mode
        return self

    @torch.no_grad()
    def calibrate(self, inputs: list[tuple[Any, ...]]) -> None:
        """Let the observers see some inputs; nothing else changes. It ends in eval mode.

        Raises:
            CompressionError: the graph cannot take them.
        """
        self.eval()
        self._observe(True)
        try:
            for arguments in inputs:
                self.graph(*moved(arguments, device_of(self)))
        except Exception as error:
            raise CompressionError(
                f"what torch.export found of the model must take the module's data; {first_line(error)}"
            ) from error
        finally:
            self._observe(False)

    @torch.no_grad()
    def unrounded(self, run: Callable[[nn.Module], Any]) -> Any:
        """What a function finds with nothing rounded and nothing observed, in eval mode."""
        self.eval()
        self._call("enable_fake_quant", False)
        try:
            return run(self)
        finally:
            self._call("enable_fake_quant", True)

    def _observe(self, on: bool) -> None:
        """Switch the observers; what they have seen becomes the scales that conversion will take."""
        self._call("enable_observer", on)
        if not on:
            for module in self._quantizers():
                _settle(module)

    def _call(self, method: str, on: bool) -> None:
        for module in self._quantizers():
            getattr(module, method)(on)

    def _quantizers(self) -> list[Any]:
        return [module for module in self.graph.modules() if hasattr(module, "enable_observer")]


def _settle(quantizer: Any) -> None:
    """While they observe, torchao's kernels and its conversion round the scales of weights differently."""
    lowest = quantizer.activation_post_process.min_val
    if not lowest.numel() or bool(torch.isposinf(lowest).all()):
        return  # nothing seen yet
    try:
        scale, zero_point = quantizer.calculate_qparams()
    except AssertionError as error:  # its way to refuse a range of NaN
        raise CompressionError(f"training must stay finite; it has diverged: {error}") from error
    with torch.no_grad():
        if quantizer.scale.shape == scale.shape and bool(torch.isfinite(scale).all()):
            quantizer.scale.copy_(scale)
            quantizer.zero_point.copy_(zero_point)
