"""Parametrizations that compress weights, and their removal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

WEIGHT = "weight"


class WeightTransform(nn.Module):
    """Base class of the parametrizations that compress a weight during training."""


def transforms(module: nn.Module, name: str = WEIGHT) -> list[nn.Module]:
    """All parametrizations of a parameter, in the order they are applied."""
    if not parametrize.is_parametrized(module, name):
        return []
    return list(cast(Any, module.parametrizations)[name])


def fold_parametrizations(model: nn.Module) -> nn.Module:
    """Replace weights by their parametrized values and remove our parametrizations: same outputs, names and order."""
    found = list(_transformed_parameters(model))
    with torch.no_grad():  # all values first, as shared weights must not be transformed twice
        values = [cast(torch.Tensor, getattr(module, name)).detach().clone() for module, name in found]
    for (module, name), value in zip(found, values, strict=True):
        with torch.no_grad():
            _remove_parametrization(module, name).copy_(value)
    return model


def strip_parametrizations(model: nn.Module) -> nn.Module:
    """Remove our parametrizations and keep the original weights below them: same names and order."""
    for module, name in list(_transformed_parameters(model)):
        _remove_parametrization(module, name)
    return model


def _transformed_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each module and the name of a parameter that has one of our parametrizations."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module.parametrizations)):
                if any(isinstance(step, WeightTransform) for step in transforms(module, name)):
                    yield module, name


def _remove_parametrization(module: nn.Module, name: str) -> nn.Parameter:
    """Like parametrize.remove_parametrizations, which would also remove them from all deep copies of the module."""
    lists = cast(Any, module.parametrizations)
    parameter: nn.Parameter = lists[name].original
    del lists[name]
    kind = type(module)
    if len(lists):
        kept = {key: value for key, value in vars(kind).items() if key not in (name, "__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, kept)
    else:
        del module.parametrizations
        module.__class__ = kind.__bases__[0]
    module.register_parameter(name, parameter)
    module._parameters = dict(sorted(module._parameters.items(), key=lambda item: item[0] != WEIGHT))
    return parameter
