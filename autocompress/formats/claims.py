"""Check of a new checkpoint: does it hold the model that it was written from.

Records describe the model as its file gives it back. All tensors are compared bit for bit, then the outputs on the
example inputs, which also depend on state outside tensors.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import Compression
from autocompress.compression.model_state import device_of, forward_outputs
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.verify import compare, differences
from autocompress.errors import CompressionError, StoreError, first_line
from autocompress.formats.checkpoint import load_compressed

_ALIGNMENT = 64
"""Bytes to which torch aligns memory; kernels may sum in another order where it is not."""
_SAME_RATE = 1e-9
"""Rates are quotients of the same two counts: only their last digit may differ."""


def load_verified(
    path: str | os.PathLike[str], model: nn.Module, original: nn.Module, inputs: tuple[Any, ...]
) -> nn.Module:
    """Load a new checkpoint, check that it equals the model, and return it on the model's device.

    Raises:
        StoreError: it cannot be loaded, has other tensors, or other outputs.
    """
    loaded = load_compressed(path, original)
    if _devices(loaded) != _devices(model):  # checkpoints are loaded on the CPU
        loaded = loaded.to(device_of(model))
    require_same_tensors(loaded.state_dict(), model.state_dict(), path)
    require_same_outputs(loaded, model, inputs, path)
    return loaded


def require_same_tensors(found: Mapping[str, Any], saved: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Compare two state dicts bit for bit; StoreError if they differ."""
    odd = sorted(found.keys() ^ saved.keys()) or [
        name for name, value in saved.items() if not _same(found[name], value)
    ]
    if odd:
        more = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
        raise StoreError(
            f"the checkpoint {str(path)!r} must hold the model that was saved, bit for bit; {odd[0]}{more} "
            "differs: something else may have written there"
        )


def require_same_outputs(
    loaded: nn.Module, model: nn.Module, inputs: tuple[Any, ...], path: str | os.PathLike[str]
) -> None:
    """Check that two models with the same tensors have the same outputs: bit for bit on the CPU.

    On other devices, or with another memory layout, kernels may sum in another order, so the tolerances of
    `verify.compare` apply. Models with random outputs are not compared.

    Raises:
        StoreError: they differ.
    """
    wanted, found = forward_outputs(model, inputs), _outputs(loaded, inputs, path)
    try:
        difference = max(differences(wanted, found), default=0.0)
        if not difference or max(differences(wanted, forward_outputs(model, inputs)), default=0.0):
            return
        states = [list(each.state_dict().values()) for each in (loaded, model)]
        layouts = [[_layout(each) for each in state if isinstance(each, torch.Tensor)] for state in states]
        if device_of(model).type != "cpu" or layouts[0] != layouts[1]:
            compare(model, [inputs], lambda given: forward_outputs(loaded, given), "torch")
            return
    except CompressionError as error:
        raise StoreError(f"{_computes(path)}: {error}") from error
    raise StoreError(
        f"{_computes(path)}: an output differs by {difference:.2g}, though all tensors are the same; what the model "
        "computes with must be parameters or buffers of its state dict"
    )


@dataclass(frozen=True)
class Claim:
    """The compression rate of a model before it is finished and saved.

    Attributes:
        compression: measures the rate.
        whole_model: see `base.Compression.achieved_rate`.
        rate: achieved compression rate in [0, 1), measured on the fine-tuned model.
    """

    compression: Compression
    whole_model: bool
    rate: float

    @classmethod
    def of(cls, compression: Compression, *, whole_model: bool = False) -> Claim:
        """Measure the model under compression."""
        return cls(compression, whole_model, compression.achieved_rate(compression.model, whole_model=whole_model))

    def require(self, loaded: nn.Module, path: str | os.PathLike[str]) -> None:
        """Check that a finished model, as its file gave it back, has the rate; StoreError if not."""
        require_same_rate(self._measured(loaded), self.rate, path)

    def require_carried(self, kept: nn.Module, finished: nn.Module) -> None:
        """Check that what the first algorithm of a mix removed is still removed after the second; both read from files.

        A graph of int8 weights has no layers to measure: each weight must have a remaining shape, and no more nonzero
        values.

        Raises:
            StoreError: removed values have come back.
        """
        if isinstance(finished, Int8Model):
            _require_no_more(kept, finished)
        elif (left := self._measured(finished)) < self.rate - _SAME_RATE:
            raise StoreError(
                f"quantization must keep the compression rate of {self.rate:.6g}; the saved model has {left:.6g}"
            )

    def _measured(self, model: nn.Module) -> float:
        return self.compression.achieved_rate(model, whole_model=self.whole_model)


def require_same_rate(found: float, claimed: float, path: str | os.PathLike[str]) -> None:
    """Check the rate of a model as its file gave it back; StoreError if it differs."""
    if abs(found - claimed) > _SAME_RATE:
        raise StoreError(
            f"the checkpoint {str(path)!r} must have the compression rate of the model that was saved, {claimed:.6g}; "
            f"it has {found:.6g}"
        )


def _require_no_more(kept: nn.Module, finished: Int8Model) -> None:
    left = [parameter.detach() for parameter in kept.parameters()]
    for weight in finished.weights():
        if weight.dtype is not torch.int8:
            continue
        values = int(torch.count_nonzero(weight))
        alike = [each for each in left if sorted(each.shape) == sorted(weight.shape)]
        if not any(int(torch.count_nonzero(each)) >= values for each in alike):
            raise StoreError(
                f"quantization must keep what was removed; the saved model has int8 weights {tuple(weight.shape)} "
                f"with {values} values that are not zero, and the model before it has no such weights"
            )


def _outputs(loaded: nn.Module, inputs: tuple[Any, ...], path: str | os.PathLike[str]) -> list[torch.Tensor]:
    try:
        return forward_outputs(loaded, inputs)
    except Exception as error:
        raise StoreError(f"{_computes(path)}; it does not run: {first_line(error)}") from error


def _same(found: Any, saved: Any) -> bool:
    if not isinstance(saved, torch.Tensor) or not isinstance(found, torch.Tensor):
        return True  # extra state, which only its module can compare
    if found.shape != saved.shape or found.dtype != saved.dtype:
        return False
    found = found.to(saved.device)
    return torch.equal(found, saved) or torch.equal(_bits(found), _bits(saved))


def _devices(model: nn.Module) -> set[torch.device]:
    return {tensor.device for tensor in (*model.parameters(), *model.buffers())}


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """As bytes, so that NaN equals itself."""
    dense = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return dense.flatten().view(torch.uint8)  # `contiguous()` may keep the strides of a single element


def _layout(tensor: torch.Tensor) -> tuple[tuple[int, ...], int]:
    return tensor.stride(), tensor.data_ptr() % _ALIGNMENT


def _computes(path: str | os.PathLike[str]) -> str:
    return f"the checkpoint {str(path)!r} must compute what the model that was saved does"
