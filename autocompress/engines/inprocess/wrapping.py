"""Models that are wrapped for several devices, and processes that train together."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself."""
    return model.module if isinstance(model, DataParallel | DistributedDataParallel) else model


def rewrapped(model: nn.Module) -> nn.Module:
    """The same wrapper around the model as it is now, whose parameters may be others."""
    if not isinstance(model, DistributedDataParallel):
        return model
    return DistributedDataParallel(
        model.module,
        device_ids=model.device_ids,
        output_device=model.output_device,
        dim=model.dim,
        broadcast_buffers=model.broadcast_buffers,
        find_unused_parameters=model.find_unused_parameters,
        gradient_as_bucket_view=model.gradient_as_bucket_view,
        static_graph=model.static_graph,
    )


def agreed(value: float) -> float:
    """The first process' value, where several train together: all must decide alike."""
    if not together():
        return value
    told: list[Any] = [value]
    torch.distributed.broadcast_object_list(told, src=0)
    return float(told[0])


def together() -> bool:
    """Whether several processes train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
