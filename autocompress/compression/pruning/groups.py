"""Taking channels out of a model: collected over all couplings first, then done at once, on the model or on a copy."""

from __future__ import annotations

import operator
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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


_Key = tuple[str, Callable[[Any, list[int]], Any], int]


@dataclass(frozen=True)
class Place:
    """A module or parameter in which channels of a coupling lie.

    Attributes:
        name: its dotted name.
        prune: torch-pruning's function that takes channels out of it.
        dimension: of the parameter, where it is one.
        indices: which of its channels belong to the coupling.
        roots: the channel of the coupling's root layer that each of them goes with; None: cannot tell.
        channels: how many it has on that side; None: cannot tell.
    """

    name: str
    prune: Callable[[Any, list[int]], Any]
    dimension: int
    indices: tuple[int, ...]
    roots: tuple[int | None, ...]
    channels: int | None

    @property
    def key(self) -> _Key:
        """Where the channels are counted: several couplings may have a share of them."""
        return self.name, self.prune, self.dimension

    def makes_width_of(self, layers: Collection[str]) -> bool:
        """Whether its channels are the filters of one of these layers."""
        return self.name in layers and self.prune.__name__ == "prune_out_channels"

    def going(self, roots: set[int]) -> list[int]:
        """Its channels that go with these of the root layer."""
        return [index for index, root in zip(self.indices, self.roots, strict=True) if root in roots]


@dataclass(frozen=True)
class Coupling:
    """Filters that can only be removed together.

    Attributes:
        places: all that loses channels with them, the root layer first.
        members: names of the layers that lose filters with it, the root first.
        channel_groups: channels come in that many equal parts, each of which loses the same.
        group: torch-pruning's group over all channels of its root layer; None where another model was followed.
    """

    places: tuple[Place, ...]
    members: tuple[str, ...]
    channel_groups: int
    group: Any = None

    @property
    def width(self) -> int:
        """Channels of the root layer."""
        return len(self.places[0].indices)

    def spares_some(self, channels: Iterable[int]) -> bool:
        """Whether nothing loses all that it has with these channels of the root layer."""
        going = set(channels)
        return all(place.channels is None or len(place.going(going)) < place.channels for place in self.places)


def removals(chosen: Iterable[tuple[Coupling, Sequence[int]]]) -> list[Removal]:
    """What goes from where with these channels of the couplings' root layers, and all that belongs to them.

    A coupling of which something would lose all its channels stays whole.
    """
    gone = _gone((coupling, channels) for coupling, channels in chosen if coupling.spares_some(channels))
    return [Removal(*key, tuple(sorted(channels))) for key, channels in gone.items() if channels]


def narrowed(couplings: Sequence[Coupling], width_of: Callable[[str], int]) -> tuple[Coupling, ...] | None:
    """The couplings of a model that has lost channels of them, without following its channels again.

    Which channels went does not matter: those that are left are counted from 0.

    Args:
        couplings: of the model as it was.
        width_of: filters that a layer has now, by its name.

    Returns:
        None where these couplings cannot have led to such widths.
    """
    lost = [(coupling, _last(coupling, width_of(coupling.members[0]))) for coupling in couplings]
    gone = {key: sorted(channels) for key, channels in _gone(lost).items()}
    found = tuple(_without(coupling, sorted(channels), gone) for coupling, channels in lost)
    members = (place for coupling in found for place in coupling.places if place.makes_width_of(coupling.members))
    return found if all(place.channels == width_of(place.name) for place in members) else None


def _gone(chosen: Iterable[tuple[Coupling, Sequence[int]]]) -> dict[_Key, set[int]]:
    gone: dict[_Key, set[int]] = defaultdict(set)
    for coupling, channels in chosen:
        going = set(channels)
        for place in coupling.places:
            gone[place.key].update(place.going(going))
    return gone


def _last(coupling: Coupling, width: int) -> list[int]:
    """The last channels of each part, so many that a width is left."""
    parts, per_part = coupling.channel_groups, coupling.width // coupling.channel_groups
    left = max(0, width // parts)
    return [part * per_part + channel for part in range(parts) for channel in range(left, per_part)]


def _without(coupling: Coupling, lost: list[int], gone: Mapping[_Key, list[int]]) -> Coupling:
    going = set(lost)
    places = []
    for place in coupling.places:
        left = [pair for pair in zip(place.indices, place.roots, strict=True) if pair[1] not in going]
        without = gone[place.key]
        indices = tuple(index - bisect_left(without, index) for index, _ in left)
        roots = tuple(None if root is None else root - bisect_left(lost, root) for _, root in left)
        channels = None if place.channels is None else place.channels - len(without)
        places.append(replace(place, indices=indices, roots=roots, channels=channels))
    return replace(coupling, places=tuple(places), group=None)
