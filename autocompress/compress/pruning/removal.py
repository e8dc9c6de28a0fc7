"""Taking channels out of a model: collected over all couplings first, then done at once, on the model or on a copy."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
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
    """Remove the channels as `remove` does, but take layers that have been cut in a copy from there.

    Args:
        model: that is to become smaller.
        removed: what goes from it.
        base: a copy of the model, which shares parameters with it, others apart.
        smaller: what has become of a copy of `base`.
    """
    taken = set()
    for name in dict.fromkeys(removal.name for removal in removed):
        place = operator.attrgetter(name)(model)
        if isinstance(place, nn.Module) and _is_shared(place, base.get_submodule(name)):
            cut = smaller.get_submodule(name)
            for key, parameter in cut._parameters.items():
                setattr(place, key, parameter)
            vars(place).update({key: value for key, value in vars(cut).items() if type(value) in (int, tuple)})
            taken.add(name)
    remove(model, [removal for removal in removed if removal.name not in taken])


def _is_shared(module: nn.Module, copied: nn.Module) -> bool:
    """Whether all that a module has is parameters, the same in the copy."""
    own = [*module._parameters.values(), *module._buffers.values(), *module._modules.values()]
    return len(own) == len(module._parameters) and all(map(operator.is_, own, copied._parameters.values()))
