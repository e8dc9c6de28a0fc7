"""Taking channels out of a model: collected over all couplings first, then done at once, on the model or on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Removal:
    """Channels that go from one module or one parameter.

    Attributes:
        name: dotted name of the module or parameter.
        prune: torch-pruning's function for modules of that kind, from a module and channels to the module.
        dimension: of the parameter, where it is one.
        channels: ascending.
    """

    name: str
    prune: Callable[[Any, list[int]], Any]
    dimension: int
    channels: tuple[int, ...]


def remove(model: nn.Module, removed: Iterable[Removal]) -> None:
    """Take the channels out of the model that they were found in, or out of a copy of it; once only."""
    for removal in removed:
        owner, _, last = removal.name.rpartition(".")
        parent = model.get_submodule(owner)
        removal.prune.__self__.pruning_dim = removal.dimension  # type: ignore[attr-defined]
        smaller = removal.prune(getattr(parent, last), list(removal.channels))
        if isinstance(smaller, nn.Parameter):
            setattr(parent, last, smaller)
