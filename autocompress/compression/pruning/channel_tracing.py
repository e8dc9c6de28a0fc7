"""Channel dependencies found by marking, for structures that a dependency graph cannot follow.

A filter's output is set to NaN, which no operation removes; what becomes NaN depends on it. Filters are marked by the
bits of their numbers, so that a few forward passes distinguish all of a layer.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from autocompress.compression.base import layer_shape
from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.model_state import flatten_tensors, map_tensors, temporary_hooks
from autocompress.compression.pruning.channel_marks import (
    FIXED,
    MIXING,
    NORMS,
    ChannelPosition,
    InputDimension,
    LayerOutput,
    Marks,
    ParameterDimension,
    Place,
    Source,
    Watch,
    all_marked,
    marked_by,
    positions,
    same_marks,
)
from autocompress.compression.pruning.channelwise_mode import CallRecord
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.groups import Removal
from autocompress.compression.pruning.reference_models import cast_inputs, reference_copy
from autocompress.errors import CompressionError

_MOST_SINGLE_MARKS = 256
"""Largest number of filters that are marked one by one."""

_FUSED = (1, 2, 3)
"""Parts that one layer may compute: gate and value; query, key and value."""

_IMAGE_DIMENSIONS = 4
_CROP = 32
"""Images are cropped to multiples of it, as models of five poolings need."""

_MOST_PASSES = 1000
"""Limit of forward passes in all; other layers are not pruned."""


class ChannelTracer:
    """Which channels of which modules depend on each other.

    Args:
        model: not changed.
        inputs: positional arguments of one forward pass.
        effort: ends the tracing; None: one with the default limits.
        skipped: places that marks pass without being recorded.
        crops: whether images are cropped.

    Attributes:
        partial: places where a channel was marked at some positions only: it may be shared by several heads.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: tuple[Any, ...],
        effort: TracingEffort | None = None,
        skipped: Collection[Place] = (),
        *,
        crops: bool = True,
    ) -> None:
        self._model = reference_copy(model)
        self._inputs = cast_inputs(inputs, self._model, None)
        self._inputs = _smallest_images(self._model, self._inputs) if crops else self._inputs
        self._trains = _trains_differently(self._model, self._inputs)
        self._modules = dict(self._model.named_modules())
        self._skipped = frozenset(skipped)
        self._over: dict[ChannelPosition, ChannelPosition] = {}
        self._passes, self._effort = 0, effort or TracingEffort()
        self.partial: set[Place] = set()

    def trace(self, layers: Iterable[str]) -> None:
        """Mark all filters of these layers, and everything that no convolution or linear layer produces."""
        for spot in positions(self._rest()):
            self._join(spot, FIXED)
        self._trace_inputs()
        for parameter in self._loose_parameters():
            self._trace_parameter(*parameter)
        for name in layers:
            everything = list(positions(self._pass(LayerOutput(self._modules[name]), None)))
            if any(self._top(spot) == self._top(FIXED) for spot in everything):  # all its channels are alike
                for spot in (*everything, *(("out", name, channel) for channel in range(self.width(name)))):
                    self._join(spot, FIXED)
                continue
            for channel, met in self._dependents(LayerOutput(self._modules[name]), self.width(name)):
                self._join(("out", name, channel), met if isinstance(met, tuple) else ("out", name, met))

    def coupled_sets(self, name: str) -> list[list[ChannelPosition]] | None:
        """For the channels of a layer, sets of spots that can only be removed together; None if one must stay."""
        together: dict[ChannelPosition, list[ChannelPosition]] = defaultdict(list)
        roots = [("out", name, channel) for channel in range(layer_shape(self._modules[name]).width)]
        tops = dict.fromkeys(map(self._top, roots))
        for spot in list(self._over):
            together[self._top(spot)].append(spot)
        return None if self._top(FIXED) in tops else [sorted(together[top]) for top in tops]

    def width(self, name: str) -> int:
        """Filters of a layer."""
        return layer_shape(self._modules[name]).width

    def reached(self, name: str, channels: Iterable[int]) -> dict[Place, list[int]]:
        """Where these channels of a layer are read, together: channels by kind and name of place."""
        marked = torch.zeros(self.width(name)).bool()
        marked[list(channels)] = True
        seen = self._pass(LayerOutput(self._modules[name]), marked)
        return {place: found.nonzero().flatten().tolist() for place, found in seen.items()}

    def _trace_inputs(self) -> None:
        """What has the channels of an input must stay; a mask or a rotation has none of its own."""
        for number, tensor in enumerate(flatten_tensors(self._inputs)):
            if tensor.is_floating_point():
                whole = self._pass(InputDimension(number, 0), None)
                if self._aligned(partial(InputDimension, number), tensor.shape, whole) is not None:
                    for spot in positions(whole):
                        self._join(spot, FIXED)

    def _trace_parameter(self, name: str, parameter: torch.Tensor) -> None:
        """The dimension of a parameter outside layers that has channels loses them with what they meet."""
        source = partial(ParameterDimension, name)
        whole = self._pass(source(0), None)
        dimension = self._aligned(source, parameter.shape, whole)
        if dimension is None:
            return
        for channel, spot in self._dependents(source(dimension), parameter.shape[dimension]):
            place = f"{name}:{dimension}"
            self._join(("param", place, channel), spot if isinstance(spot, tuple) else ("param", place, spot))

    def _loose_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Parameters outside convolutions, linear layers and norms, and the tables of embeddings."""
        for name, module in self._modules.items():
            if not isinstance(module, (*FILTER_TYPES, *NORMS, *MIXING)):
                for key, parameter in module.named_parameters(recurse=False):
                    if parameter.numel() > 1 and parameter.is_floating_point():
                        yield f"{name}.{key}".lstrip("."), parameter

    def _aligned(self, source: Callable[[int], Source], shape: Sequence[int], whole: Marks) -> int | None:
        """The last dimension of a tensor whose parts go different ways; None: all parts reach the same."""
        if not whole:
            return None
        for dimension in reversed(range(len(shape))):
            if shape[dimension] > 1:
                first = torch.arange(shape[dimension]) < shape[dimension] // 2
                halves = [self._pass(source(dimension), half) for half in (first, ~first)]
                if all(half and not same_marks(half, whole) for half in halves):
                    return dimension
        return None

    def _dependents(self, source: Source, width: int) -> Iterator[tuple[int, ChannelPosition | int]]:
        """Channels of a source, each with every spot that it reaches before another layer.

        Channels that only reach something together, as those of an attention head, are each with the first of them.
        """
        for numbers in self._numberings(source, width):
            found = self._told_apart(source, numbers)
            if found is not None:
                first = {number: channel for channel, number in reversed(list(enumerate(numbers.tolist())))}
                yield from ((channel, first[number]) for channel, number in enumerate(numbers.tolist()))
                yield from ((first[number], spot) for number, spot in found)
                return
        yield from self._one_by_one(source, width)

    def _numberings(self, source: Source, width: int) -> Iterator[torch.Tensor]:
        """Ways to number channels: each by itself; in heads as wide as what the first reaches, also of fused parts."""
        channels = torch.arange(width)
        yield channels
        reached = self._pass(source, channels == 0).values()
        if any(place.numel() > 1 and bool(place.all()) for place in reached):
            return  # all depend on each other
        most = max((int(place.sum()) for place in reached), default=1)
        for size in (size for size in range(most, 0, -1) if most % size == 0 and width % size == 0):
            for parts in _FUSED:
                count, left = divmod(width // size, parts)
                if count > 1 and not left and (size, parts) != (1, 1):
                    yield (channels // size) % count

    def _told_apart(self, source: Source, numbers: torch.Tensor) -> list[tuple[int, ChannelPosition]] | None:
        """For each number the spots that only channels of that number reach; None: there are others."""
        bits = [(numbers >> bit) & 1 == 1 for bit in range(max(1, int(numbers.max()).bit_length()))]
        ones, zeros = list[Marks](), list[Marks]()
        for bit in bits:
            one, zero = self._pass(source, bit), self._pass(source, ~bit)
            if any(bool((one[place] & zero[place]).any()) for place in one.keys() & zero.keys()):
                return None
            ones.append(one)
            zeros.append(zero)
        found = list[tuple[int, ChannelPosition]]()
        for place in {place for seen in (*ones, *zeros) for place in seen}:
            wide = next(seen[place].numel() for seen in (*ones, *zeros) if place in seen)
            on, off = (
                torch.stack([seen.get(place, torch.zeros(wide).bool()) for seen in each]) for each in (ones, zeros)
            )
            for index in (on | off).any(0).nonzero().flatten().tolist():
                found.append((sum(1 << bit for bit in range(len(bits)) if on[bit, index]), (*place, index)))
        return found

    def _one_by_one(self, source: Source, width: int) -> Iterator[tuple[int, ChannelPosition]]:
        for channel in range(width):
            marked = torch.arange(width) == channel
            seen = {} if width > _MOST_SINGLE_MARKS else self._pass(source, marked)
            if not seen or any(place.numel() > 1 and bool(place.all()) for place in seen.values()):
                yield from ((other, FIXED) for other in range(width))  # all depend on each other
                return
            yield from ((channel, spot) for spot in positions(seen))

    def _join(self, one: ChannelPosition, other: ChannelPosition) -> None:
        self._over[self._top(one)] = self._top(other)

    def _top(self, spot: ChannelPosition) -> ChannelPosition:
        over = self._over
        while (above := over.setdefault(spot, spot)) != spot:
            over[spot] = over.setdefault(above, above)  # path halving
            spot = above
        return spot

    def _pass(self, source: Source, marked: torch.Tensor | None) -> Marks:
        """What is marked if these channels of a source are; None: all."""
        self._effort.check()
        self._passes += 1
        if self._passes > _MOST_PASSES:
            raise CompressionError(f"channels must be distinguished in {_MOST_PASSES} forward passes")
        with source.marking(self._model, self._inputs, marked) as inputs:
            return self._seen(self._model, inputs)

    def _rest(self) -> Marks:
        """What is marked by the outputs of layers that cannot be pruned."""
        mixing = [module for module in self._modules.values() if isinstance(module, MIXING)]
        if not mixing:
            return {}
        hooks = [each.register_forward_hook(lambda _, __, output: map_tensors(output, all_marked)) for each in mixing]
        with temporary_hooks(hooks):
            return self._seen(self._model, self._inputs)

    def _seen(self, model: nn.Module, inputs: Any) -> Marks:
        """What is marked in eval mode or in training mode, in which other code may run."""
        seen: Marks = {}
        for mode in (False, True) if self._trains else (False,):
            marked_by(model.train(mode), inputs, seen, watched=Watch(self._skipped, self.partial))
        return seen


def _smallest_images(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The inputs with images as small as the model takes: channels depend on each other alike in images of any size."""
    for share in (4, 2):

        def crop(tensor: torch.Tensor, share: int = share) -> torch.Tensor:
            if tensor.dim() != _IMAGE_DIMENSIONS or not tensor.is_floating_point():
                return tensor
            height, width = (min(size, _CROP * -(-size // (share * _CROP))) for size in tensor.shape[2:])
            return tensor[..., :height, :width]

        smaller: tuple[Any, ...] = map_tensors(inputs, crop)
        with contextlib.suppress(Exception):  # the model takes images of one size, or of a smallest one
            marked_by(model.eval(), smaller, {})
            return smaller
    return inputs


def _trains_differently(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether other code runs in training mode."""
    records = CallRecord(model, inputs), CallRecord(model, inputs)
    try:
        for record, mode in zip(records, (False, True), strict=True):
            marked_by(model.train(mode), inputs, {}, record)
    except Exception:  # noqa: BLE001 - the model may not train with such inputs
        return False
    return not records[0].same_as(records[1])


def channels_in_place(
    model: nn.Module, smaller: nn.Module, inputs: tuple[Any, ...], layers: Iterable[str], removed: Sequence[Removal]
) -> bool:
    """Whether each remaining channel of these layers is at the right place in the pruned model.

    If outputs differ all the same, they depend on other channels, or on the number of channels.
    """
    gone = {(removal.on_inputs, removal.name): set(removal.channels) for removal in removed}
    wide, narrow = ChannelTracer(model, inputs), ChannelTracer(smaller, inputs)
    for name in layers:
        left = [channel for channel in range(wide.width(name)) if channel not in gone.get((False, name), ())]
        for step in (2, 3):
            before, after = wide.reached(name, left[::step]), narrow.reached(name, range(0, len(left), step))
            for kind, place in {*before, *after}:
                lost = gone.get((kind == "in", place), set())
                there = [channel for channel in before.get((kind, place), ()) if channel not in lost]
                counted = [channel - sum(each < channel for each in lost) for channel in there]
                if counted != after.get((kind, place), []):
                    return False
    return True
