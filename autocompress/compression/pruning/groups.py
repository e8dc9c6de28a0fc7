"""Coupled channels and their removal, on the model or on a copy."""

from __future__ import annotations

import operator
import random
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Removal:
    """Channels to remove from one module or parameter.

    Attributes:
        name: dotted name of the module, parameter or attribute.
        prune: torch-pruning's function for modules of that kind: (module, channels) -> module.
        dimension: of a parameter.
        channels: ascending.
    """

    name: str
    prune: Callable[[Any, list[int]], Any]
    dimension: int
    channels: tuple[int, ...]

    @property
    def on_inputs(self) -> bool:
        """Whether they are input channels of a layer; else outputs, or passed through channel by channel."""
        return self.prune.__name__ == "prune_in_channels"

    def locate(self, model: nn.Module) -> tuple[nn.Module, str]:
        """The parent of the module or parameter, and its name there."""
        owner, _, last = self.name.rpartition(".")
        return model.get_submodule(owner), last


def remove(model: nn.Module, removed: Iterable[Removal]) -> None:
    """Remove the channels from the model they were found in, or from a copy of it; once only.

    Filters go first: whole rows are copied faster, and fewer are left for the other dimension.
    """
    for removal in sorted(removed, key=lambda removal: removal.on_inputs):
        parent, last = removal.locate(model)
        removal.prune.__self__.pruning_dim = removal.dimension  # type: ignore[attr-defined]
        smaller = removal.prune(getattr(parent, last), list(removal.channels))
        if isinstance(smaller, nn.Parameter | int):
            setattr(parent, last, smaller)


def remove_with_copy(model: nn.Module, removed: Sequence[Removal], base: nn.Module, smaller: nn.Module) -> None:
    """Remove the channels as `remove` does, but take pruned layers from a pruned copy.

    Args:
        model: the model to prune.
        removed: what to remove from it.
        base: a copy that shares parameters with the model.
        smaller: a pruned copy of `base`.
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
    """Whether the module has only parameters, all shared with the copy."""
    own = [*module._parameters.values(), *module._buffers.values(), *module._modules.values()]
    return len(own) == len(module._parameters) and all(map(operator.is_, own, copied._parameters.values()))


class AttributePruner:
    """Lowers an integer attribute that counts channels or heads; in the form of torch-pruning's pruners."""

    pruning_dim = -1

    def prune_out_channels(self, value: int, channels: list[int]) -> int:
        """The attribute without these channels."""
        return value - len(channels)


class TransposedLinearPruner:
    """Removes channels of linear layers that keep their weight as (inputs, outputs)."""

    pruning_dim = -1

    def prune_out_channels(self, layer: Any, channels: list[int]) -> Any:
        """The layer without these outputs."""
        layer.weight = _without(layer.weight, channels, 1)
        layer.bias = None if layer.bias is None else _without(layer.bias, channels, 0)
        layer.nf = layer.weight.shape[1]
        return layer

    def prune_in_channels(self, layer: Any, channels: list[int]) -> Any:
        """The layer without these inputs."""
        layer.weight = _without(layer.weight, channels, 0)
        layer.nx = layer.weight.shape[0]
        return layer

    def get_out_channels(self, layer: Any) -> int:
        """Number of outputs."""
        return int(layer.weight.shape[1])

    def get_in_channels(self, layer: Any) -> int:
        """Number of inputs."""
        return int(layer.weight.shape[0])


def _without(parameter: nn.Parameter, channels: list[int], dimension: int) -> nn.Parameter:
    gone = set(channels)
    kept = [channel for channel in range(parameter.shape[dimension]) if channel not in gone]
    left = parameter.detach().index_select(dimension, torch.tensor(kept, device=parameter.device))
    return nn.Parameter(left, parameter.requires_grad)


ATTRIBUTE, TRANSPOSED_LINEAR = AttributePruner(), TransposedLinearPruner()


_Key = tuple[str, Callable[[Any, list[int]], Any], int]


@dataclass(frozen=True)
class ChannelSlice:
    """A module or parameter that holds channels of a coupling.

    Attributes:
        name: its dotted name.
        prune: torch-pruning's function that removes its channels.
        dimension: of a parameter.
        indices: its channels that belong to the coupling.
        roots: the root layer's channel for each of them; None: unknown.
        channels: number of channels on that side; None: unknown.
    """

    name: str
    prune: Callable[[Any, list[int]], Any]
    dimension: int
    indices: tuple[int, ...]
    roots: tuple[int | None, ...]
    channels: int | None

    @property
    def key(self) -> _Key:
        """Identifies the dimension, in which several couplings may have channels."""
        return self.name, self.prune, self.dimension

    def is_output_of(self, layers: Collection[str]) -> bool:
        """Whether its channels are the filters of one of these layers."""
        return self.name in layers and self.prune.__name__ == "prune_out_channels"

    def channels_for(self, roots: set[int]) -> list[int]:
        """Its channels that are removed with these of the root layer."""
        return [index for index, root in zip(self.indices, self.roots, strict=True) if root in roots]


@dataclass(frozen=True)
class Coupling:
    """Filters that can only be removed together.

    Attributes:
        places: everything that loses channels, the root layer first.
        members: names of the layers that lose filters, the root first.
        channel_groups: equal parts of the channels, each of which loses the same ones, or as many of its own.
        group: torch-pruning's group over all channels of the root layer; None for a narrowed coupling.
        alike: sets of parts that lose the same channels, where others lose their own; empty: all lose the same.
        orders: for each part its channels, those that go first first; empty: one order is that of all.
    """

    places: tuple[ChannelSlice, ...]
    members: tuple[str, ...]
    channel_groups: int
    group: Any = None
    alike: tuple[tuple[int, ...], ...] = ()
    orders: tuple[tuple[int, ...], ...] = ()

    @property
    def width(self) -> int:
        """Channels of the root layer."""
        return len(self.places[0].indices)

    def leaves_some(self, channels: Iterable[int]) -> bool:
        """Whether every place keeps some channels without these of the root layer."""
        going = set(channels)
        return all(place.channels is None or len(place.channels_for(going)) < place.channels for place in self.places)


def trial_channels(coupling: Coupling) -> list[int]:
    """Half of the channels of each part, more of the first ones, so that a split in the middle is detected."""
    per_part = coupling.width // coupling.channel_groups
    chance = random.Random(per_part)
    order = sorted(range(per_part), key=lambda channel: channel + chance.uniform(0, per_part))
    going = order[: per_part // 2]
    return sorted(part * per_part + channel for part in range(coupling.channel_groups) for channel in going)


def removals(chosen: Iterable[tuple[Coupling, Sequence[int]]]) -> list[Removal]:
    """What to remove from where for these channels of the couplings' root layers.

    A coupling is skipped if a place would lose all its channels.
    """
    gone = _removed_channels((coupling, channels) for coupling, channels in chosen if coupling.leaves_some(channels))
    return [Removal(*key, tuple(sorted(channels))) for key, channels in gone.items() if channels]


def after_pruning(couplings: Sequence[Coupling], width_of: Callable[[str], int]) -> tuple[Coupling, ...] | None:
    """The couplings of a pruned model, without tracing it again, given the current width of each layer.

    Which channels were removed does not matter: the remaining ones are numbered from 0. None if the widths cannot
    result from these couplings.
    """
    lost = [(coupling, _last_channels(coupling, width_of(coupling.members[0]))) for coupling in couplings]
    gone = {key: sorted(channels) for key, channels in _removed_channels(lost).items()}
    found = tuple(_remaining_coupling(coupling, sorted(channels), gone) for coupling, channels in lost)
    members = (place for coupling in found for place in coupling.places if place.is_output_of(coupling.members))
    return found if all(place.channels == width_of(place.name) for place in members) else None


def _removed_channels(chosen: Iterable[tuple[Coupling, Sequence[int]]]) -> dict[_Key, set[int]]:
    gone: dict[_Key, set[int]] = defaultdict(set)
    for coupling, channels in chosen:
        going = set(channels)
        for place in coupling.places:
            gone[place.key].update(place.channels_for(going))
    return gone


def _last_channels(coupling: Coupling, width: int) -> list[int]:
    """The last channels of each part, so that a width remains."""
    parts, per_part = coupling.channel_groups, coupling.width // coupling.channel_groups
    left = max(0, width // parts)
    return [part * per_part + channel for part in range(parts) for channel in range(left, per_part)]


def _remaining_coupling(coupling: Coupling, lost: list[int], gone: Mapping[_Key, list[int]]) -> Coupling:
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
