"""Statistics of BatchNorm layers after compression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autocompress.compression.hooks import batch_inputs
from autocompress.compression.model_state import device_of, eval_mode, to_device


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> bool:
    """Re-estimate the running statistics of all BatchNorm layers as the plain average over batches of model inputs.

    Everything else is in eval mode; modes and momenta are restored. Without batches the statistics stay as they are.

    Returns:
        whether the model has BatchNorm layers; without them no batch is drawn.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    with eval_mode(model), torch.no_grad():
        try:
            _average_statistics(model, norms, batches)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return True


def _average_statistics(model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any]) -> None:
    device = device_of(model)
    for index, batch in enumerate(batches):
        if index == 0:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # cumulative average
                norm.train()
        model(*to_device(batch_inputs(model, batch), device))
