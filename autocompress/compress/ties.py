"""Parameters that several modules share."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

Place = tuple[str, str]
"""A module's dotted name and the name of a parameter in it."""


def tied_parameters(model: nn.Module) -> list[list[Place]]:
    """The places of each parameter that has more than one."""
    places: dict[int, list[Place]] = defaultdict(list)
    for name, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[id(parameter)].append((name, key))
    return [found for found in places.values() if len(found) > 1]
