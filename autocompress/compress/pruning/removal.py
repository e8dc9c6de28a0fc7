"""Taking channels out of a model: collected over all couplings first, then done at once, on the model or on a copy.

torch-pruning follows all channels of the model anew for each group that it is asked for, which takes most of the time
on networks with many concatenations; what it says once of whole couplings is enough for any choice of their channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
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


def removals(chosen: Iterable[tuple[Any, Collection[int]]], names: Mapping[Any, str]) -> list[Removal]:
    """What must go so that these channels can.

    Args:
        chosen: torch-pruning's groups over all channels of their roots, all found in the same model, each with the
            channels of its root that go.
        names: dotted names of the modules and parameters.
    """
    gone: dict[tuple[str, Callable[[Any, list[int]], Any], int], set[int]] = defaultdict(set)
    for group, channels in chosen:
        going = set(channels)
        for item in group:
            target = item.dep.target
            name = names.get(target.module)
            if name is not None:  # else an operation of the forward pass, which has nothing to remove
                found = (index for index, root in zip(item.idxs, item.root_idxs, strict=True) if root in going)
                gone[name, item.dep.handler, target.pruning_dim].update(found)
    return [Removal(*where, tuple(sorted(channels))) for where, channels in gone.items() if channels]


def remove(model: nn.Module, removed: Iterable[Removal]) -> None:
    """Take the channels out of the model that they were found in, or out of a copy of it; once only."""
    for removal in removed:
        owner, _, last = removal.name.rpartition(".")
        parent = model.get_submodule(owner)
        removal.prune.__self__.pruning_dim = removal.dimension  # type: ignore[attr-defined]
        smaller = removal.prune(getattr(parent, last), list(removal.channels))
        if isinstance(smaller, nn.Parameter):
            setattr(parent, last, smaller)
