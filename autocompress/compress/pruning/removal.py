"""Taking channels out of a model: collected over all couplings first, then done at once, on the model or on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
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

    @property
    def on_inputs(self) -> bool:
        """Whether a layer loses what it takes in; else what it gives, or passes on channel by channel."""
        return self.prune.__name__ == "prune_in_channels"

    def place_in(self, model: nn.Module) -> tuple[nn.Module, str]:
        """The module that has this module or parameter, and its name there."""
        owner, _, last = self.name.rpartition(".")
        return model.get_submodule(owner), last


def remove(model: nn.Module, removed: Iterable[Removal]) -> None:
    """Take the channels out of the model that they were found in, or out of a copy of it; once only.

    Filters go first: whole rows are copied faster than parts of them, of which there are then fewer.
    """
    for removal in sorted(removed, key=lambda removal: removal.on_inputs):
        parent, last = removal.place_in(model)
        removal.prune.__self__.pruning_dim = removal.dimension  # type: ignore[attr-defined]
        smaller = removal.prune(getattr(parent, last), list(removal.channels))
        if isinstance(smaller, nn.Parameter):
            setattr(parent, last, smaller)


def take_over(model: nn.Module, removed: Sequence[Removal], base: nn.Module, smaller: nn.Module) -> None:
    """Remove the channels as `remove` does, but take parameters that have been cut out of a copy from there.

    Args:
        model: that is to become smaller.
        removed: what goes from it.
        base: a copy of the model; parameters of other values are of no use.
        smaller: what has become of a copy of `base`.
    """
    ready: list[tuple[nn.Module, str, nn.Parameter]] = []
    for name in dict.fromkeys(removal.name for removal in removed):
        place = attrgetter(name)(model)
        for key, parameter in place._parameters.items() if isinstance(place, nn.Module) else ():
            whole, cut = (other.get_submodule(name)._parameters[key] for other in (base, smaller))
            if parameter is not None and cut is not None and parameter is whole is not cut:
                ready.append((place, key, cut))
    for module, key, _ in ready:
        setattr(module, key, nn.Parameter(torch.empty_like(getattr(module, key), device="meta")))
    remove(model, removed)
    for module, key, cut in ready:
        setattr(module, key, cut)
