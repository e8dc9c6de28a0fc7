"""Couplings made of the sets of channels that marking finds, and the attributes that count them."""

from __future__ import annotations

import itertools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch_pruning as tp
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning.dependency.dependency import Dependency
from torch_pruning.dependency.group import Group
from torch_pruning.dependency.node import Node

from autocompress.compression.base import layer_shape
from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.compression.pruning.channel_marks import ChannelPosition
from autocompress.compression.pruning.groups import ATTRIBUTE, ChannelSlice, Coupling
from autocompress.compression.pruning.recurrent import module_pruner, weighed_layers
from autocompress.compression.pruning.recurrent_tracing import hidden_unit_places

_PARTS = (1, 2, 3, 4)
"""Numbers of equal parts to try, as `chunk` makes them; also the groups of convolutions."""

_MOST_TRIES = 24
"""Sets of attributes to try for one coupling."""

Compare = Callable[[Coupling], Any]
"""What is wrong with a trial cut of a coupling; None: nothing."""


@dataclass(frozen=True)
class Permission:
    """What may lose channels.

    Attributes:
        prunable: layers that may lose filters.
        fixed: modules that must keep their size.
    """

    prunable: frozenset[str]
    fixed: frozenset[str]

    def covers(self, spots: Iterable[ChannelPosition]) -> bool:
        """Whether all of these channels may go."""
        for kind, name, _ in spots:
            owner = name.rpartition(".")[0] if kind == "param" else name
            if owner in self.fixed or (kind == "out" and name not in self.prunable):
                return False
        return True


def verified_coupling(
    model: nn.Module, root: str, units: list[list[ChannelPosition]], allowed: Permission, compare: Compare
) -> Coupling | None:
    """The coupling of a layer whose trial cut is right; None: there is none.

    Args:
        model: not changed.
        root: name of the layer.
        units: sets of channels that can only be removed together, for all channels of the layer.
        allowed: what may lose channels.
        compare: tries a cut.
    """
    for coupling in _candidates(model, root, units, allowed):
        found = _with_attributes(model, coupling, compare)
        if found is not None:
            return found
    return None


def coupling_group(model: nn.Module, places: Iterable[ChannelSlice]) -> Any:
    """The group for torch-pruning's importances."""
    group = Group()
    for place in places:
        module = operator.attrgetter(place.name)(model)
        if isinstance(module, nn.Module):
            for layer, prune in weighed_layers(module, place.prune):
                node = Node(layer, None, place.name)
                group.add_dep(Dependency(prune, prune, node, node), list(place.indices))
                group[-1].root_idxs = list(place.roots)
    return group


def _candidates(
    model: nn.Module, root: str, units: list[list[ChannelPosition]], allowed: Permission
) -> Iterator[Coupling]:
    """Couplings of a layer, for several numbers of parts that lose the same channels."""
    spots = [spot for unit in units for spot in unit]
    sizes = {sum(spot[:2] == ("out", root) for spot in unit) for unit in units}
    if not allowed.covers(spots):
        return
    if isinstance(model.get_submodule(root), RECURRENT_TYPES):
        units_at = hidden_unit_places(model, root, units)
        if units_at is not None:
            places, alike = units_at
            coupling = _coupling_of(model, places, sum(map(len, alike)))
            yield replace(coupling, alike=alike if len(alike) > 1 else ())
        return
    if len(sizes) != 1:
        return
    (size,) = sizes
    modules = {model.get_submodule(name) for kind, name, _ in spots if kind != "param"}
    convolutions = [module for module in modules if isinstance(module, _ConvNd) and not layer_shape(module).depthwise]
    parts = [convolution.groups for convolution in convolutions]
    parts += [module.num_groups for module in modules if isinstance(module, nn.GroupNorm)]
    for blocks in sorted({*_PARTS, *parts}):
        if len(units) % blocks == 0 and len(units) > blocks:
            yield _coupling(model, root, units, size, blocks)


def _coupling(model: nn.Module, root: str, units: list[list[ChannelPosition]], size: int, blocks: int) -> Coupling:
    per_part = len(units) // blocks
    places: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    places["out", root] = []  # first
    for number, unit in enumerate(units):
        block, channel = divmod(number, per_part)
        first, own = block * size * per_part + channel, 0
        for kind, name, index in unit:
            is_root = (kind, name) == ("out", root)
            places[kind, name].append((index, first + own * per_part if is_root else first))
            own += is_root
    places["out", root].sort(key=lambda pair: pair[1])
    return _coupling_of(model, places, blocks * size)


def _coupling_of(model: nn.Module, places: Mapping[tuple[str, str], list[tuple[int, int]]], parts: int) -> Coupling:
    found = tuple(_place(model, kind, name, pairs) for (kind, name), pairs in places.items())
    members = tuple(name for kind, name in places if kind == "out")
    return Coupling(found, members, parts, coupling_group(model, found))


def _place(model: nn.Module, kind: str, name: str, pairs: list[tuple[int, int]]) -> ChannelSlice:
    indices, roots = zip(*pairs, strict=True)
    if kind == "param":
        name, _, dimension = name.rpartition(":")
        parameter = operator.attrgetter(name)(model)
        prune = tp.DependencyGraph().get_pruner_of_module(parameter).prune_out_channels
        return ChannelSlice(name, prune, int(dimension), indices, roots, parameter.shape[int(dimension)])
    module = model.get_submodule(name)
    pruner = module_pruner(module)
    prune = pruner.prune_in_channels if kind == "in" else pruner.prune_out_channels
    pruner.pruning_dim = -1
    has = pruner.get_in_channels(module) if kind == "in" else pruner.get_out_channels(module)
    return ChannelSlice(name, prune, -1, indices, roots, has)


def _with_attributes(model: nn.Module, coupling: Coupling, compare: Compare) -> Coupling | None:
    """The coupling with the attributes that must change with it, the fewest first; None: no set of them is right."""
    counts = _counts(model, coupling)
    sets = itertools.chain.from_iterable(itertools.combinations(counts, size) for size in range(len(counts) + 1))
    for chosen in itertools.islice(sets, _MOST_TRIES):
        found = replace(coupling, places=(*coupling.places, *(place for key in chosen for place in counts[key])))
        if compare(found) is None:
            return _with_head_counts(found, {key: counts[key] for key in counts if key not in chosen}, compare)
    return None


def _with_head_counts(coupling: Coupling, counts: Mapping[str, Sequence[ChannelSlice]], compare: Compare) -> Coupling:
    """With the other attributes that count the heads, which code that has not run may read."""
    for key, places in counts.items():
        if "head" in key:
            more = replace(coupling, places=(*coupling.places, *places))
            coupling = more if compare(more) is None else coupling
    return coupling


def _counts(model: nn.Module, coupling: Coupling) -> dict[str, list[ChannelSlice]]:
    """Integer attributes of the modules about a coupling that may count its channels, by name: first those of heads.

    Attributes of the same name change together.
    """
    units = coupling.width // coupling.channel_groups
    widths = {len(place.indices) for place in coupling.places}
    values = {width // part for width in widths for part in _PARTS if width % part == 0} | {units}
    owners = {outer for place in coupling.places for outer in outer_modules(place.name)}
    found: dict[str, list[ChannelSlice]] = defaultdict(list)
    for owner in sorted(owners):
        for key, value in vars(model.get_submodule(owner)).items():
            if type(value) is int and value in values and value % units == 0 and value > 1:
                roots = tuple(index % units for index in range(value))
                name = f"{owner}.{key}".lstrip(".")
                prune = ATTRIBUTE.prune_out_channels
                found[key].append(ChannelSlice(name, prune, -1, tuple(range(value)), roots, value))
    return dict(sorted(found.items(), key=lambda each: ("head" not in each[0], each[1][0].channels)))


def outer_modules(name: str) -> list[str]:
    """Names of the modules that contain a module or parameter, the innermost first; the model is ""."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, -1, -1)]
