"""Our own parametrizations of weights, and how they are taken off again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

WEIGHT = "weight"


class WeightTransform(nn.Module):
    """Base of the parametrizations that compress a weight while it is trained."""


def transforms(module: nn.Module, name: str = WEIGHT) -> list[nn.Module]:
    """All parametrizations of one of the module's parameters, in the order they are applied."""
    if not parametrize.is_parametrized(module, name):
        return []
    return list(cast(Any, module.parametrizations)[name])


def fold(model: nn.Module) -> nn.Module:
    """Write what our parametrizations make of the weights into them and take them off: same outputs, names, order."""
    found = list(_transformed(model))
    with torch.no_grad():  # all values first: a shared weight has several places, and not every transform is idempotent
        values = [cast(torch.Tensor, getattr(module, name)).detach().clone() for module, name in found]
    for (module, name), value in zip(found, values, strict=True):
        with torch.no_grad():
            _taken_off(module, name).copy_(value)
    return model


def bare(model: nn.Module) -> nn.Module:
    """Take our parametrizations off and leave the weights below them as they are: same names and order."""
    for module, name in list(_transformed(model)):
        _taken_off(module, name)
    return model


def _transformed(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Each module with the name of a parameter that one of ours is on."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            for name in list(cast(Any, module.parametrizations)):
                if any(isinstance(step, WeightTransform) for step in transforms(module, name)):
                    yield module, name


def _taken_off(module: nn.Module, name: str) -> nn.Parameter:
    """As parametrize.remove_parametrizations, which would take them off all deep copies of the module too."""
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
