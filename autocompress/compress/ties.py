"""Parameters that several modules share."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn

from autocompress.errors import CompressionError

Place = tuple[str, str]
"""A module's dotted name and the name of a parameter in it."""


def tied_parameters(model: nn.Module) -> list[list[Place]]:
    """The places of each parameter that has more than one."""
    places: dict[int, list[Place]] = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[id(parameter)].append((name, key))
    return [found for found in places.values() if len(found) > 1]


def rebind_ties(model: nn.Module, ties: list[list[Place]]) -> None:
    """Make the parameters at tied places one object again, after they were replaced.

    Raises:
        CompressionError: they no longer hold the same values.
    """
    for places in ties:
        (name, key), *others = places
        kept = getattr(model.get_submodule(name), key)
        for other, other_key in others:
            module = model.get_submodule(other)
            if not torch.equal(getattr(module, other_key), kept):
                raise CompressionError(
                    f"layers that share a parameter must lose the same filters; {name}.{key} and {other}.{other_key} "
                    "do not: exclude the layers around them"
                )
            setattr(module, other_key, kept)
