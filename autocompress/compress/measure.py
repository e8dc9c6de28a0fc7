"""How big a model is. Each number is a function of its own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import IO, Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.shipping.storage import encode
from autocompress.compress.state import device_of, evaluating, moved
from autocompress.records import Measurement


def measure(model: nn.Module, example_inputs: tuple[Any, ...]) -> Measurement:
    """Size of a finished model (masks folded)."""
    return Measurement(
        parameters=parameters(model),
        nonzero_parameters=nonzero_parameters(model),
        macs=macs(model, example_inputs),
        bytes=weights_bytes(model),
    )


def parameters(model: nn.Module) -> int:
    """Number of parameter values, zeros included; a shared parameter counts once."""
    return sum(parameter.numel() for parameter in _parameters(model))


def nonzero_parameters(model: nn.Module) -> int:
    """Number of parameter values that are not zero."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in _parameters(model))


def _parameters(model: nn.Module) -> Iterator[torch.Tensor]:
    return model.weights() if isinstance(model, Int8Model) else iter(model.parameters())


def macs(model: nn.Module, example_inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates of one forward pass in eval mode on dense kernels: convolutions and matrix products."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), countable_attention(), counter:
        model(*moved(example_inputs, device_of(model)))
    return int(counter.get_total_flops()) // 2


def weights_bytes(model: nn.Module) -> int:
    """Size in bytes of a checkpoint's weights file: zeros and few bits are stored compactly (see `storage`)."""
    counter = _ByteCounter()
    torch.save(encode(model.state_dict())[0], cast(IO[bytes], counter))
    return counter.total


class _ByteCounter(io.RawIOBase):
    """A file that only counts: no second copy of the weights in memory."""

    total = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.total += size
        return size


@contextlib.contextmanager
def countable_attention() -> Iterator[None]:
    """Without the fused kernel of nn.MultiheadAttention in eval mode, which the counter takes for nothing."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
