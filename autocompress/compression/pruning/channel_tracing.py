"""Channel dependencies found by marking, for structures that a dependency graph cannot follow.

A filter's output is set to NaN, which no operation removes; what becomes NaN depends on it. Filters are marked by the
bits of their numbers, so that a few forward passes distinguish all of a layer.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from autocompress.compression.base import layer_shape
from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.model_state import copy_model, device_of, flatten_tensors, map_tensors, temporary_hooks
from autocompress.compression.pruning.channelwise_mode import CallRecord, NeutralNormalization
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.groups import Removal
from autocompress.compression.pruning.reference_models import (
    cast_inputs,
    channel_dimension,
    fixed_seeds,
    reference_copy,
)
from autocompress.errors import CompressionError

_NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
_MIXING = (nn.RNNBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)
_MOST_SINGLE_MARKS = 256
"""Largest number of filters that are marked one by one."""

_IMAGE_DIMENSIONS = 4
_CROP = 32
"""Images are cropped to multiples of it, as models of five poolings need."""

_MOST_PASSES = 1000
"""Limit of forward passes in all; other layers are not pruned."""

ChannelPosition = tuple[str, str, int]
"""A channel: "out" of a layer, "in" to one, or "by" a module that it passes; the module's name; the index."""

FIXED: ChannelPosition = ("out", "", 0)
"""Stands for everything that must stay: inputs, outputs, and outputs of layers that cannot be pruned."""

_Marks = dict[tuple[str, str], torch.Tensor]
"""The marked channels of each module in one pass."""


class ChannelTracer:
    """Which channels of which modules depend on each other."""

    def __init__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._model = reference_copy(model)
        self._inputs = _smallest_images(self._model, cast_inputs(inputs, self._model, None))
        self._trains = _trains_differently(self._model, self._inputs)
        self._modules = dict(self._model.named_modules())
        self._over: dict[ChannelPosition, ChannelPosition] = {}
        self._passes, self._effort = 0, TracingEffort()

    def trace(self, layers: Iterable[str]) -> None:
        """Mark all filters of these layers, and everything that no convolution or linear layer produces."""
        for spot in _positions(self._rest()):
            self._join(spot, FIXED)
        for name in layers:
            everything = list(_positions(self._pass(self._modules[name], torch.ones(self.width(name)).bool())))
            if any(self._top(spot) == self._top(FIXED) for spot in everything):  # all its channels are alike
                for spot in (*everything, *(("out", name, channel) for channel in range(self.width(name)))):
                    self._join(spot, FIXED)
                continue
            for channel, spot in self._dependents(name):
                self._join(("out", name, channel), spot)

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

    def reached(self, name: str, channels: Iterable[int]) -> dict[tuple[str, str], list[int]]:
        """Where these channels of a layer are read, together: channels by kind and name of place."""
        marked = torch.zeros(self.width(name)).bool()
        marked[list(channels)] = True
        seen = self._pass(self._modules[name], marked)
        return {place: found.nonzero().flatten().tolist() for place, found in seen.items()}

    def _dependents(self, name: str) -> Iterator[tuple[int, ChannelPosition]]:
        """Channels of a layer, each with every spot that it reaches before another layer."""
        layer = self._modules[name]
        width = layer_shape(layer).width
        numbers = torch.arange(width)
        bits = [(numbers >> bit) & 1 == 1 for bit in range(max(1, (width - 1).bit_length()))]
        ones, zeros = [self._pass(layer, bit) for bit in bits], [self._pass(layer, ~bit) for bit in bits]
        mixed = False
        for place in {place for seen in (*ones, *zeros) for place in seen}:
            wide = next(seen[place].numel() for seen in (*ones, *zeros) if place in seen)
            on, off = (
                torch.stack([seen.get(place, torch.zeros(wide).bool()) for seen in each]) for each in (ones, zeros)
            )
            several = (on & off).any(0)
            mixed |= bool(several.any())
            for index in ((on | off).any(0) & ~several).nonzero().flatten().tolist():
                yield sum(1 << bit for bit in range(len(bits)) if on[bit, index]), (*place, index)
        if mixed:
            yield from self._one_by_one(layer, name)

    def _one_by_one(self, layer: nn.Module, name: str) -> Iterator[tuple[int, ChannelPosition]]:
        width = layer_shape(self._modules[name]).width
        for channel in range(width):
            marked = torch.arange(width) == channel
            seen = {} if width > _MOST_SINGLE_MARKS else self._pass(layer, marked)
            if not seen or any(place.numel() > 1 and bool(place.all()) for place in seen.values()):
                yield from ((other, FIXED) for other in range(width))  # all depend on each other
                return
            yield from ((channel, spot) for spot in _positions(seen))

    def _join(self, one: ChannelPosition, other: ChannelPosition) -> None:
        self._over[self._top(one)] = self._top(other)

    def _top(self, spot: ChannelPosition) -> ChannelPosition:
        over = self._over
        while (above := over.setdefault(spot, spot)) != spot:
            over[spot] = over.setdefault(above, above)  # path halving
            spot = above
        return spot

    def _pass(self, layer: nn.Module, marked: torch.Tensor) -> _Marks:
        """What is marked if these filters of a layer are."""
        self._effort.check()
        self._passes += 1
        if self._passes > _MOST_PASSES:
            raise CompressionError(f"channels must be distinguished in {_MOST_PASSES} forward passes")
        channels, dimension = marked.nonzero().flatten(), channel_dimension(layer)

        def mark(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
            return output.index_fill(dimension, channels.to(output.device), float("nan"))

        with layer.register_forward_hook(mark):
            return self._seen(self._model, self._inputs)

    def _rest(self) -> _Marks:
        """What is marked by the inputs, parameters outside layers, and outputs of layers that cannot be pruned."""
        other = copy_model(self._model)  # parameters change
        for module in other.modules():
            if isinstance(module, _MIXING):
                module.register_forward_hook(lambda _, __, output: map_tensors(output, _all_marked))
            elif not isinstance(module, (*FILTER_TYPES, *_NORMS)):
                for parameter in module.parameters(recurse=False):
                    if parameter.numel() > 1:
                        parameter.data = _all_marked(parameter.data)
        return self._seen(other, map_tensors(self._inputs, _all_marked))

    def _seen(self, model: nn.Module, inputs: Any) -> _Marks:
        """What is marked in eval mode or in training mode, in which other code may run."""
        seen = _forward(model.eval(), inputs, {})
        return _forward(model.train(), inputs, seen) if self._trains else seen


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
            _forward(model.eval(), smaller, {})
            return smaller
    return inputs


def _trains_differently(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Whether other code runs in training mode."""
    records = CallRecord(model, inputs), CallRecord(model, inputs)
    try:
        for record, mode in zip(records, (False, True), strict=True):
            _forward(model.train(mode), inputs, {}, record)
    except Exception:  # noqa: BLE001 - the model may not train with such inputs
        return False
    return not records[0].same_as(records[1])


def _forward(model: nn.Module, inputs: Any, seen: _Marks, calls: CallRecord | None = None) -> _Marks:
    undisturbed = fixed_seeds(device_of(model))
    masks = sdpa_kernel(SDPBackend.MATH)  # other kernels treat NaN as a masked position
    with temporary_hooks(_watchers(model, seen)), torch.no_grad(), undisturbed, masks, NeutralNormalization(calls):
        answer = model(*inputs)
    if calls is not None:
        calls.record_result(answer)
    if any(bool(tensor.isnan().any()) for tensor in flatten_tensors(answer)):
        seen[FIXED[:2]] = torch.ones(1, dtype=torch.bool)
    return seen


def _watchers(model: nn.Module, seen: _Marks) -> list[RemovableHandle]:
    """Hooks that record marks at the inputs of layers, and where they end or pass."""
    places = ((module, _place(name, module)) for name, module in model.named_modules())
    return [module.register_forward_pre_hook(_marking_hook(seen, at), with_kwargs=True) for module, at in places if at]


def _place(name: str, module: nn.Module) -> tuple[str, str] | None:
    if isinstance(module, FILTER_TYPES):  # inputs of a depthwise convolution are its filters
        return ("out" if layer_shape(module).depthwise else "in"), name
    if isinstance(module, _MIXING):
        return FIXED[:2]
    return ("by", name) if isinstance(module, _NORMS) else None


def _marking_hook(seen: _Marks, place: tuple[str, str]) -> Any:
    def take(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        found = _channels(module, flatten_tensors((arguments, keywords)), whole=place == FIXED[:2])
        seen[place] = found | seen.get(place, torch.zeros_like(found))
        if place[0] == "in" or place == FIXED[:2]:
            return map_tensors(arguments, _without_marks), map_tensors(keywords, _without_marks)
        return None

    return take


def _channels(module: nn.Module, given: list[torch.Tensor], *, whole: bool) -> torch.Tensor:
    """Which input channels of a module are marked, or, as a whole, whether any is."""
    if whole:
        return torch.tensor([any(bool(tensor.isnan().any()) for tensor in given)])
    at_end = isinstance(module, (*FILTER_TYPES, nn.LayerNorm))
    marked = given[0].isnan().movedim(channel_dimension(module) if at_end else 1, 0)
    return marked.flatten(1).any(1).cpu()


def _positions(seen: _Marks) -> Iterator[ChannelPosition]:
    for place, channels in seen.items():
        yield from ((*place, index) for index in channels.nonzero().flatten().tolist())


def _all_marked(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor


def _without_marks(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.masked_fill(tensor.isnan(), 0) if tensor.is_floating_point() else tensor


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
