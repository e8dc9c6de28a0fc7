"""Check of a pruned model: it computes what the whole model computes with the removed filters at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.model_state import forward_outputs
from autocompress.compression.pruning.importance import by_filter

_TOLERANCE = 1e-4
_NORMS = (nn.LayerNorm, nn.GroupNorm)
_COLUMNS = 64


def with_distinct_values(model: nn.Module) -> nn.Module:
    """A copy with distinct values in one-dimensional parameters and statistics, as trained ones have."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.dim() == 1 and tensor.is_floating_point() and tensor.numel() > 1:
                values = torch.linspace(0.5, 1.5, tensor.numel())[torch.randperm(tensor.numel(), generator=generator)]
                tensor.copy_(values - 1 if name.endswith(("bias", "running_mean")) else values)
    return model


def check_zeroed(original: nn.Module, smaller: nn.Module, inputs: tuple[object, ...]) -> None:
    """Compare a pruned model with the uncompressed one in which every removed filter is zero.

    Which filters were removed is read from the remaining weights. Non-linearities must map zero to zero; LayerNorm and
    GroupNorm, whose statistics change with the number of channels, are skipped in both models.

    Args:
        original: the model that was compressed, `with_distinct_values`.
        smaller: pruned from it, not trained.
        inputs: positional arguments of one forward pass.

    Raises:
        AssertionError: the outputs differ.
    """
    zeroed, smaller = copy.deepcopy(original), copy.deepcopy(smaller)
    left = dict(smaller.named_modules())
    for name, module in zeroed.named_modules():
        if isinstance(module, FILTER_TYPES):
            _zero_filters(module, cast(nn.Module, left[name]))
        elif isinstance(module, (*_NORMS, _BatchNorm)) and module.weight is not None:
            _zero_channels(module, cast(nn.Module, left[name]))
    _leave_out_norms(zeroed)
    _leave_out_norms(smaller)
    for before, after in zip(forward_outputs(zeroed, inputs), forward_outputs(smaller, inputs), strict=True):
        assert before.shape == after.shape, f"the outputs' shapes must stay; {before.shape} became {after.shape}"
        difference, scale = float((before - after).abs().max()), float(before.abs().max())
        assert difference <= _TOLERANCE * scale, (
            f"a smaller model must compute what the whole one does whose lost filters are zero; outputs differ by "
            f"{difference / scale:.2g} of their scale"
        )


@torch.no_grad()
def _zero_filters(layer: nn.Module, left: nn.Module) -> None:
    weight = cast(torch.Tensor, layer.weight)
    if cast(torch.Tensor, left.weight).shape == weight.shape:
        return
    rows, fewer = by_filter(layer, weight), by_filter(left, cast(torch.Tensor, left.weight))
    gone = _lost(rows, fewer)
    places = by_filter(layer, torch.arange(weight.numel()).view(weight.shape))[gone].flatten()
    weight.view(-1)[places] = 0
    if layer.bias is not None:
        cast(torch.Tensor, layer.bias)[gone] = 0


@torch.no_grad()
def _zero_channels(norm: nn.Module, left: nn.Module) -> None:
    weight, bias = cast(torch.Tensor, norm.weight), cast(torch.Tensor, norm.bias)
    if weight.dim() == 1:
        gone = ~torch.isin(weight, cast(torch.Tensor, left.weight))
        weight[gone] = 0
        bias[gone] = 0


def _lost(rows: torch.Tensor, fewer: torch.Tensor) -> torch.Tensor:
    """Which rows are missing in the other matrix, which may have fewer columns: by the row each value is found in."""
    values, order = rows.flatten().sort()
    some = fewer[:, torch.linspace(0, fewer.shape[1] - 1, min(_COLUMNS, fewer.shape[1])).long()]
    found = order[torch.searchsorted(values, some).clamp_max(values.numel() - 1)] // rows.shape[1]
    lost = torch.ones(rows.shape[0], dtype=torch.bool)
    kept = found.mode(dim=1).values
    assert len(set(kept.tolist())) == len(kept), "each filter that is left must be one of those that were there"
    lost[kept] = False
    return lost


def _leave_out_norms(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, _NORMS):
            setattr(module, "forward", _affine(module))  # noqa: B010 - mypy lets no method be replaced


def _affine(norm: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """A normalization layer's forward without the normalization."""
    weight, bias = cast(torch.Tensor, norm.weight), cast(torch.Tensor, norm.bias)

    def forward(x: torch.Tensor) -> torch.Tensor:
        shape = (-1, *[1] * (x.dim() - 2)) if isinstance(norm, nn.GroupNorm) else weight.shape
        return x * weight.view(shape) + bias.view(shape)

    return forward
