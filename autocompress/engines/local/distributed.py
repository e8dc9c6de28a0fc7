"""Models that are wrapped for several devices, and processes that train together."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_T = TypeVar("_T")

_NAMES = ("forward_sync_buffers", "broadcast_buffers")  # newer releases of torch call it by the first
_SYNC_BUFFERS = next(name for name in _NAMES if name in inspect.signature(DistributedDataParallel.__init__).parameters)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model.module if isinstance(model, DataParallel | DistributedDataParallel) else model


def rewrapped(model: nn.Module) -> nn.Module:
    """The same wrapper around the model as it is now, whose parameters may be others."""
    if not isinstance(model, DistributedDataParallel):
        return model
    settings: dict[str, Any] = {
        "device_ids": model.device_ids,
        "output_device": model.output_device,
        "dim": model.dim,
        "process_group": model.process_group,
        "find_unused_parameters": model.find_unused_parameters,
        "gradient_as_bucket_view": model.gradient_as_bucket_view,
        "static_graph": model.static_graph,
        _SYNC_BUFFERS: getattr(model, _SYNC_BUFFERS, True),
    }
    return DistributedDataParallel(model.module, **settings)


def shared(value: _T) -> _T:
    """The first process' value, where several train together: all must decide alike, and come here together."""
    if not together():
        return value
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def rank() -> int:
    """Number of this process among those that train together; 0 where it is alone."""
    return torch.distributed.get_rank() if together() else 0


def together() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
