"""All coupled channels of a model: torch-pruning's, and those found by tracing where it is wrong."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch_pruning.dependency.dependency import Dependency
from torch_pruning.dependency.group import Group
from torch_pruning.dependency.node import Node

from autocompress.compression.base import CompressionRequest, LayerShape, layer_shape
from autocompress.compression.layers import FILTER_TYPES, PRUNED_TYPES, RECURRENT_TYPES, layer_rates, supported_layers
from autocompress.compression.pruning.channel_tracing import ChannelPosition, ChannelTracer
from autocompress.compression.pruning.equivalence import CutVerifier
from autocompress.compression.pruning.graph import ChannelGraph
from autocompress.compression.pruning.groups import ChannelSlice, Coupling, after_pruning, removals
from autocompress.compression.pruning.pruner import PROBED, pruner_of
from autocompress.compression.pruning.recurrent import module_pruner, weighed_layers
from autocompress.compression.pruning.recurrent_tracing import RecurrentLayers, hidden_unit_places
from autocompress.errors import CompressionError

_logger = logging.getLogger(__name__)

_PARTS = (1, 2, 3, 4)
"""Numbers of equal parts to try, as `chunk` makes them; also the groups of convolutions."""


def trial_channels(coupling: Coupling) -> list[int]:
    """Half of the channels of each part, more of the first ones, so that a split in the middle is detected."""
    per_part = coupling.width // coupling.channel_groups
    chance = random.Random(per_part)
    order = sorted(range(per_part), key=lambda channel: channel + chance.uniform(0, per_part))
    going = order[: per_part // 2]
    return sorted(part * per_part + channel for part in range(coupling.channel_groups) for channel in going)


def trace_couplings(
    model: nn.Module, inputs: tuple[Any, ...], channels: Channels, verifier: CutVerifier
) -> tuple[list[Coupling], dict[str, str]]:
    """Correct couplings of the layers that are in none of the channels' verified couplings, found by tracing.

    Returns:
        the couplings; and recurrent layers that the model cannot lose hidden units of, each with the reason.
    """
    known = {name for coupling in channels.couplings for name in coupling.members}
    recurrent = RecurrentLayers.of(model)
    try:
        with recurrent.replaced(model):
            tracer, parts = ChannelTracer(model, inputs), supported_layers(model, FILTER_TYPES)
        shapes = {name: layer_shape(part) for name, part in parts.items() if name not in known}
        # What a single filter is multiplied with does not depend on other channels: it cannot be removed.
        tracer.trace(name for name, shape in shapes.items() if shape.width > 1 and not shape.depthwise)
    except CompressionError as error:
        _logger.warning("%s keep their filters: %s", ", ".join(channels.left_alone), error)
        return [], {}
    except Exception:  # noqa: BLE001 - the model does not accept NaN: its layers are not pruned
        return [], {}
    found, failed = list[Coupling](), dict[str, str]()
    cut = [(coupling, trial_channels(coupling)) for coupling in channels.couplings]
    widths = {name: layer_shape(model.get_submodule(name)).width for name in channels.left_alone}
    for name in sorted(widths, key=lambda name: (name not in recurrent.layers, -widths[name])):
        if not any(name in coupling.members for coupling in found):
            for coupling in _couplings(model, name, recurrent.coupled_sets(tracer, name) or [], channels):
                tried = (coupling, trial_channels(coupling))
                mismatch = verifier.mismatch(removals([*cut, tried]))
                if mismatch is None:
                    found.append(coupling)
                    cut.append(tried)
                    break
                if name in recurrent.layers and "initial state" not in channels.left_alone[name]:
                    failed[name] = mismatch.sentence(name).replace("filters", "hidden units")
    return found, failed


def _couplings(
    model: nn.Module, root: str, units: list[list[ChannelPosition]], channels: Channels
) -> Iterator[Coupling]:
    """Candidate couplings of a layer, for several numbers of parts that lose the same channels."""
    spots = [spot for unit in units for spot in unit]
    losing = {name for kind, name, _ in spots if kind == "out"}
    sizes = {sum(spot[:2] == ("out", root) for spot in unit) for unit in units}
    if not losing <= channels.prunable or {name for _, name, _ in spots} & channels.fixed:
        return
    if isinstance(model.get_submodule(root), RECURRENT_TYPES):
        places = hidden_unit_places(model, root, units)
        if places is not None:
            coupling = _coupling_of(model, places[0], sum(map(len, places[1])))
            yield replace(coupling, alike=places[1] if len(places[1]) > 1 else ())
        return
    if len(sizes) != 1:
        return
    (size,) = sizes
    modules = {model.get_submodule(name) for _, name, _ in spots}
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
    return Coupling(found, members, parts, _group(model, found))


def _place(model: nn.Module, kind: str, name: str, pairs: list[tuple[int, int]]) -> ChannelSlice:
    module = model.get_submodule(name)
    pruner = module_pruner(module)
    prune = pruner.prune_in_channels if kind == "in" else pruner.prune_out_channels
    pruner.pruning_dim = -1
    has = pruner.get_in_channels(module) if kind == "in" else pruner.get_out_channels(module)
    indices, roots = zip(*pairs, strict=True)
    return ChannelSlice(name, prune, -1, indices, roots, has)


def _group(model: nn.Module, places: Iterable[ChannelSlice]) -> Any:
    """The group for torch-pruning's importances."""
    group = Group()
    for place in places:
        for layer, prune in weighed_layers(model.get_submodule(place.name), place.prune):
            node = Node(layer, None, place.name)
            group.add_dep(Dependency(prune, prune, node, node), list(place.indices))
            group[-1].root_idxs = list(place.roots)
    return group


@dataclass(frozen=True)
class Channels:
    """The channels that can be removed from a model.

    Attributes:
        couplings: filters that can only be removed together.
        outputs: layers that produce the model's outputs.
        behind: layer -> name of the BatchNorm that is the only consumer of its output, or the layer's own name.
        original: sizes of the uncompressed model's layers.
        left_alone: layer -> why it keeps its filters: its channels cannot be traced.
        obstacles: layer -> why it keeps its filters: it is coupled with something that must stay.
        prunable: layers that may lose filters by themselves.
        fixed: modules that must keep their size.
        is_verified: whether each coupling has been verified by a trial cut.
    """

    couplings: tuple[Coupling, ...]
    outputs: frozenset[str]
    behind: Mapping[str, str]
    original: Mapping[str, LayerShape]
    left_alone: Mapping[str, str]
    prunable: frozenset[str]
    fixed: frozenset[str]
    obstacles: Mapping[str, str] = field(default_factory=dict)
    is_verified: bool = False

    @classmethod
    def of(cls, model: nn.Module, request: CompressionRequest, original: Mapping[str, LayerShape]) -> Channels:
        """Trace the channels of a model, which is in eval mode and whose parameters require gradients.

        Raises:
            CompressionError: the model cannot be traced.
        """
        rates = layer_rates(model, request.targets, PRUNED_TYPES, request.scopes)
        recurrent = RecurrentLayers.of(model)
        with recurrent.replaced(model):
            graph = ChannelGraph(model, request.example_inputs, {**original, **recurrent.shapes}, recurrent.fixed)
            spared = pruner_of(request).spared(request, graph, rates)
            selected = [name for name in rates if name not in spared]
            parts = recurrent.parts(selected)
            couplings, left_alone, obstacles = graph.couplings(parts)
            obstacles |= spared
            behind, free = graph.batchnorm_behind(supported_layers(model, FILTER_TYPES)), graph.prunable(parts)
        found = cls(tuple(couplings), graph.outputs, behind, original, left_alone, free, graph.fixed, obstacles)
        found = recurrent.restored(found, selected)
        grouped = (replace(each, group=each.group or _group(model, each.places)) for each in found.couplings)
        found, left_alone = replace(found, couplings=tuple(grouped)), dict(found.left_alone)
        # The widths for a share of the model, or for equal damage, are found by running pruned models.
        runs = request.argument("rate_of") != "filters" or pruner_of(request).allocation(request) in PROBED
        return found.with_verified(model, request) if left_alone or runs else found

    def with_verified(self, model: nn.Module, request: CompressionRequest) -> Channels:
        """The couplings that a trial cut of half the channels verifies; wrong ones are replaced by traced ones."""
        if self.is_verified:
            return self
        verifier = CutVerifier(model, request.example_inputs)
        faulty = verifier.find_faulty([(coupling, trial_channels(coupling)) for coupling in self.couplings])
        wrong = [each for each in self.couplings if each.members[0] in faulty]
        found = self.without({name: faulty[each.members[0]] for each in wrong for name in each.members})
        if found.left_alone:
            more, failed = trace_couplings(model, request.example_inputs, found, verifier)
            again = {name for coupling in more for name in coupling.members}
            left_alone = {name: why for name, why in {**found.left_alone, **failed}.items() if name not in again}
            found = replace(found, couplings=(*found.couplings, *more), left_alone=left_alone)
        return replace(found, is_verified=True)

    def without(self, left_alone: Mapping[str, str]) -> Channels:
        """Without the couplings of these layers, given with the reasons."""
        couplings = tuple(each for each in self.couplings if not left_alone.keys() & set(each.members))
        return replace(self, couplings=couplings, left_alone={**self.left_alone, **left_alone})

    def narrowed(self, model: nn.Module) -> Channels | None:
        """The channels of a model pruned from this one; None if it cannot have been."""
        couplings = after_pruning(self.couplings, lambda name: layer_shape(model.get_submodule(name)).width)
        return None if couplings is None else replace(self, couplings=couplings)
