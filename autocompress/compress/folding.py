"""Our own parametrizations of weights, and how they are taken off again."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

WEIGHT = "weight"


class WeightTransform(nn.Module):
    """Base of the parametrizations that compress a weight while it is trained."""


def transformed(module: nn.Module) -> bool:
    """Whether one of ours is on the module's weight."""
    return any(isinstance(step, WeightTransform) for step in transforms(module))


def transforms(module: nn.Module) -> list[nn.Module]:
    """All parametrizations of the module's weight, in the order they are applied."""
    if not parametrize.is_parametrized(module, WEIGHT):
        return []
    return list(cast(Any, module.parametrizations)[WEIGHT])


def fold(model: nn.Module) -> nn.Module:
    """Write what our parametrizations make of the weights into them and take them off: same outputs, names, order."""
    found = [module for module in model.modules() if transformed(module)]
    with torch.no_grad():  # all values first: a shared weight has several places, and not every transform is idempotent
        values = [cast(torch.Tensor, module.weight).detach().clone() for module in found]
    for module, value in zip(found, values, strict=True):
        _fold(module, value)
    return model


def _fold(module: nn.Module, value: torch.Tensor) -> None:
    """As parametrize.remove_parametrizations, which would take them off all deep copies of the module too."""
    parameter = cast(Any, module.parametrizations)[WEIGHT].original
    with torch.no_grad():
        parameter.copy_(value)
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    module.register_parameter(WEIGHT, parameter)
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: item[0] != WEIGHT))
