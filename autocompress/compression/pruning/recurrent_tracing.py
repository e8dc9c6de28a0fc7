"""Channels of recurrent layers, traced with linear layers in their place.

Loops over time, which kernels hide or unroll, can be followed neither by a dependency graph nor by marks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from autocompress.compression.base import LayerShape
from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.compression.pruning.channel_marks import ChannelPosition
from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.graph import fixed_modules
from autocompress.compression.pruning.groups import ChannelSlice, Coupling
from autocompress.compression.pruning.recurrent import PRUNER, RecurrentSubstitute, linear_of, parameter, suffixes
from autocompress.errors import CompressionError

if TYPE_CHECKING:
    from autocompress.compression.pruning.channels import Channels


class StandIn(RecurrentSubstitute):
    """Stands for a recurrent layer where channels are traced: a linear layer for each cell, in place of its loop.

    Its inputs, outputs and states have the shapes of the layer's, and their channels depend on each other as there.

    Attributes:
        cells: from the inputs of each cell to its hidden units.
        projections: from hidden units to projected features, of each cell; empty without.
        takes_state: whether it was called with an initial state.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        inputs = (parameter(layer, "weight_ih", suffix)[: layer.hidden_size] for suffix in suffixes(layer))
        projected = [parameter(layer, "weight_hr", suffix) for suffix in suffixes(layer) if layer.proj_size]
        self.cells = nn.ModuleList(map(linear_of, inputs))
        self.projections = nn.ModuleList(map(linear_of, projected))
        self.takes_state = False
        self._directions, self._has_cells = 1 + layer.bidirectional, isinstance(layer, nn.LSTM)
        self._batch_first = layer.batch_first

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As the layer's."""
        packed = isinstance(input, PackedSequence)
        x = input.data if packed else input
        self.takes_state |= hx is not None
        states = (hx if isinstance(hx, tuple | list) else (hx,)) if hx is not None else ()
        outputs, cells = list[torch.Tensor](), list[torch.Tensor]()
        for first in range(0, len(self.cells), self._directions):
            for cell in range(first, first + self._directions):
                made = torch.tanh(self.cells[cell](x))
                cells.append(made if len(states) < 2 else made + self._everywhere(states[1][cell]))
                made = self.projections[cell](cells[-1]) if self.projections else cells[-1]
                outputs.append(made if not states else made + self._everywhere(states[0][cell]))
            x = torch.cat(outputs[first:], -1) if self._directions > 1 else outputs[first]
        last = [torch.stack([self._last(each, input) for each in values]) for values in (outputs, cells)]
        sequence = input._replace(data=x) if packed else x
        return sequence, (tuple(last) if self._has_cells else last[0])

    @staticmethod
    def _everywhere(state: torch.Tensor) -> torch.Tensor:
        return state if state.dim() == 1 else state.sum(0)

    def _last(self, sequence: torch.Tensor, given: Any) -> torch.Tensor:
        """Of each sequence the value at one position."""
        if isinstance(given, PackedSequence):
            found = sequence[: int(given.batch_sizes[0])]
            return found if given.unsorted_indices is None else found.index_select(0, given.unsorted_indices)
        return sequence[:, -1] if self._batch_first and sequence.dim() == 3 else sequence[-1]


@dataclass(frozen=True)
class RecurrentLayers:
    """The recurrent layers of a model, and their stand-ins.

    Attributes:
        layers: by name.
        stand_ins: of each.
        obstacles: name -> why its size must stay, as words behind its name.
    """

    layers: Mapping[str, nn.RNNBase]
    stand_ins: Mapping[str, StandIn]
    obstacles: Mapping[str, str]

    @classmethod
    def of(cls, model: nn.Module) -> RecurrentLayers:
        """Those of a model.

        Raises:
            CompressionError: it is nothing else.
        """
        layers = {name: module for name, module in model.named_modules() if isinstance(module, RECURRENT_TYPES)}
        if "" in layers:
            raise CompressionError(
                "the model must have layers beside a recurrent one, whose hidden units are its outputs"
            )
        fixed, obstacles = fixed_modules(model) if layers else {}, dict[str, str]()
        for name, layer in layers.items():
            whys = [fixed[id(each)] for each in (layer, *layer.parameters()) if id(each) in fixed]
            own = type(layer).forward not in {kind.forward for kind in RECURRENT_TYPES}
            obstacles |= {name: (*whys, "has a forward of its own")[0]} if whys or own else {}
        return cls(layers, {name: StandIn(layer) for name, layer in layers.items()}, obstacles)

    @property
    def shapes(self) -> dict[str, LayerShape]:
        """Sizes of the linear layers in the stand-ins."""
        return {
            f"{name}.{part}": LayerShape(layer.out_features)
            for name, each in self.stand_ins.items()
            for part, layer in each.named_modules()
            if isinstance(layer, nn.Linear)
        }

    @property
    def fixed(self) -> dict[int, str]:
        """Ids of the linear layers that stand for layers whose size must stay, with the reasons."""
        return {id(part): why for name, why in self.obstacles.items() for part in self.stand_ins[name].modules()}

    @contextmanager
    def replaced(self, model: nn.Module) -> Iterator[None]:
        """Put the stand-ins into the model inside the block."""
        instead = {id(layer): self.stand_ins[name] for name, layer in self.layers.items()}
        places = [
            (parent, key, child)
            for parent in model.modules()
            for key, child in parent._modules.items()
            if id(child) in instead
        ]
        for parent, key, child in places:
            parent._modules[key] = instead[id(child)]
        try:
            yield
        finally:
            for parent, key, child in places:
                parent._modules[key] = child

    def parts(self, names: Iterable[str]) -> list[str]:
        """Names of layers in the model with stand-ins: those of the cells for a recurrent layer."""
        cells = {name: range(len(each.cells)) for name, each in self.stand_ins.items()}
        return [
            part
            for name in names
            for part in ([f"{name}.cells.{cell}" for cell in cells[name]] if name in cells else [name])
        ]

    def restored(self, found: Channels, selected: Iterable[str]) -> Channels:
        """The channels of the model with stand-ins as those of the model; hidden units are left to be traced by marks.

        Args:
            found: of the model with stand-ins.
            selected: layers that may lose filters or hidden units.
        """
        inner, left_alone, obstacles = (
            self.shapes.keys(),
            self._renamed(found.left_alone),
            self._renamed(found.obstacles),
        )
        projections = {name for name in inner if name.rpartition(".")[0].endswith(".projections")}
        outputs = frozenset(map(self.whole, found.outputs - projections))
        couplings = list[Coupling]()
        for coupling in found.couplings:
            owners = [self.whole(name) for name in coupling.members if self.whole(name) in self.layers]
            if owners:
                why = f"it shares channels with {owners[0]}, whose hidden units must stay; it keeps its filters"
                left_alone |= {name: f"{name}: {why}" for name in coupling.members if name not in inner}
            else:
                couplings.append(self._restored(coupling))
        free = set(found.prunable) - inner
        for name in self.layers.keys() & set(selected):
            obstacles.pop(name, None)
            if name in self.obstacles:
                obstacles[name] = f"{name}: it {self.obstacles[name]}, so that its size must stay; {_KEEPS}"
            elif name not in outputs:
                left_alone[name] = self._reason(name)
                free.add(name)
        return replace(
            found,
            couplings=tuple(couplings),
            outputs=outputs,
            behind={name: near for name, near in found.behind.items() if name not in inner}
            | {name: name for name in self.layers},
            left_alone=left_alone,
            prunable=frozenset(free),
            fixed=frozenset(map(self.whole, found.fixed)) - inner,
            obstacles=obstacles,
            original={name: shape for name, shape in found.original.items() if name not in inner},
        )

    def whole(self, part: str) -> str:
        """The name of the layer that a cell or projection belongs to; other names are returned as they are."""
        match = _PART.fullmatch(part)
        return match[1] if match and match[1] in self.layers else part

    def _renamed(self, found: Mapping[str, str]) -> dict[str, str]:
        """Reasons of layers, with the names of recurrent layers in place of those of their cells."""
        for part in self.shapes:
            whole = part.rsplit(".", 2)[0]
            found = {name: re.sub(rf"\b{re.escape(part)}\b", whole, why) for name, why in found.items()}
        return {self.whole(name): why for name, why in found.items()}

    def _reason(self, name: str) -> str:
        """Why a layer whose hidden units cannot be traced keeps them."""
        if self.stand_ins[name].takes_state:
            why = "its initial state is given from outside, whose size must stay"
        else:
            why = "its hidden units reach the model's outputs or something else whose size must stay"
        return f"{name}: {why}; {_KEEPS}"

    def _restored(self, coupling: Coupling) -> Coupling:
        """A coupling that recurrent layers may read, in the model without stand-ins; its group is then dropped."""
        places = dict[Any, ChannelSlice]()
        for place in coupling.places:
            name, new = self.whole(place.name), place
            if name in self.layers:  # both directions of the first layer read the same inputs
                new = replace(place, name=name, prune=PRUNER.prune_in_channels, channels=self.layers[name].input_size)
            places.setdefault(new.key, new)
        same = tuple(places.values()) == coupling.places
        return coupling if same else replace(coupling, places=tuple(places.values()), group=None)

    def coupled_sets(self, tracer: ChannelTracer, name: str) -> list[list[ChannelPosition]] | None:
        """The channels of a layer in sets that can only be removed together; None: some must stay.

        Those of a recurrent layer include all of every other one that is coupled with it.
        """
        found, waiting, done = dict[tuple[ChannelPosition, ...], None](), [name], set[str]()
        while waiting:
            done.add(layer := waiting.pop())
            for part in self.parts([layer]):
                units = tracer.coupled_sets(part)
                if units is None:
                    return None
                for unit in units:
                    spots = tuple(dict.fromkeys(spot for spot in map(self._position, unit) if spot is not None))
                    found[spots] = None
                    waiting += [
                        other for kind, other, _ in spots if kind == "out" and other in self.layers.keys() - done
                    ]
        recurrent = done & self.layers.keys()
        return None if recurrent and name not in self.layers else [list(spots) for spots in found]

    def _position(self, spot: ChannelPosition) -> ChannelPosition | None:
        """A channel in the model with stand-ins as one in the model; None: it is inside a layer."""
        match = _PART.fullmatch(spot[1])
        if not match or match[1] not in self.layers:
            return spot
        (kind, _, index), layer, cell = spot, self.layers[match[1]], int(match[3])
        if kind == "out":
            return ("out", match[1], cell * layer.hidden_size + index) if match[2] == "cells" else spot
        return ("in", match[1], index) if match[2] == "cells" and cell <= layer.bidirectional else None


_KEEPS = "it keeps its hidden units"
_PART = re.compile(r"(.*)\.(cells|projections)\.(\d+)")
_Pairs = list[tuple[int, int]]


def hidden_unit_places(
    model: nn.Module, root: str, units: Iterable[Sequence[ChannelPosition]]
) -> tuple[dict[tuple[str, str], _Pairs], tuple[tuple[int, ...], ...]] | None:
    """Where the hidden units of a recurrent layer are.

    Args:
        model: without stand-ins.
        root: the layer's name.
        units: sets of channels that can only be removed together.

    Returns:
        for each place pairs of a channel there and of the layer, and the cells that must lose the same units; None if
        units of different numbers are coupled, so that cells cannot lose equally many.
    """
    size = cast(nn.RNNBase, model.get_submodule(root)).hidden_size
    places: dict[tuple[str, str], _Pairs] = {("out", root): []}
    together, lost = list[tuple[int, ...]](), Counter[tuple[str, int, int]]()
    for unit in units:
        own = [index for kind, name, index in unit if (kind, name) == ("out", root)]
        numbers = {index % size for index in own}
        if len(numbers) != 1:
            return None
        together.append(tuple(sorted(index // size for index in own)))
        for kind, name, index in unit:
            places.setdefault((kind, name), []).append((index, index if (kind, name) == ("out", root) else min(own)))
            layer = model.get_submodule(name)
            if kind == "out" and isinstance(layer, RECURRENT_TYPES):
                lost[name, index // layer.hidden_size, min(numbers)] += 1
    places["out", root].sort()
    alike = tuple(sorted(set(together)))
    whole = sum(map(len, alike)) * size == len(places["out", root]) and len(alike) * size == len(together)
    return (places, alike) if alike and whole and _lose_equally(model, lost, size) else None


def _lose_equally(model: nn.Module, lost: Counter[tuple[str, int, int]], size: int) -> bool:
    """Whether all cells of each layer lose equally many units, given how many of a cell go with each number."""
    for name in {name for name, _, _ in lost}:
        cells = range(len(suffixes(cast(nn.RNNBase, model.get_submodule(name)))))
        if len({lost[name, cell, number] for cell in cells for number in range(size)}) > 1:
            return False
    return True
