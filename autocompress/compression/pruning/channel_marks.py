"""Marks on channels: where they are set, and which channels of which modules they reach in a forward pass."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.hooks import RemovableHandle

from autocompress.compression.base import layer_shape
from autocompress.compression.layers import FILTER_TYPES
from autocompress.compression.model_state import device_of, flatten_tensors, map_tensors, temporary_hooks
from autocompress.compression.pruning.channelwise_mode import CallRecord, NeutralNormalization
from autocompress.compression.pruning.reference_models import channel_dimension, fixed_seeds

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
MIXING = (nn.RNNBase, nn.MultiheadAttention, nn.EmbeddingBag)

ChannelPosition = tuple[str, str, int]
"""A channel: "out" of a layer, "in" to one, "by" a module that it passes, or "param"; a name; the index.

The name is the module's, or the parameter's and the dimension behind a colon.
"""

FIXED: ChannelPosition = ("out", "", 0)
"""Stands for everything that must stay: inputs, outputs, and outputs of layers that cannot be pruned."""

Place = tuple[str, str]
"""A module, or a dimension of a parameter: kind and name."""

Marks = dict[Place, torch.Tensor]
"""The marked channels of each module in one pass."""


class Source(Protocol):
    """A tensor whose channels can be marked."""

    def marking(
        self, model: nn.Module, inputs: tuple[Any, ...], marked: torch.Tensor | None
    ) -> AbstractContextManager[tuple[Any, ...]]:
        """Mark these channels, or all, inside the block; gives the inputs of the model."""


@dataclass(frozen=True)
class LayerOutput:
    """The output of a layer."""

    layer: nn.Module

    @contextlib.contextmanager
    def marking(
        self,
        model: nn.Module,  # noqa: ARG002
        inputs: tuple[Any, ...],
        marked: torch.Tensor | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Mark these channels, or all, inside the block."""
        dimension = channel_dimension(self.layer)
        with self.layer.register_forward_hook(lambda _, __, output: _marked(output, dimension, marked)):
            yield inputs


@dataclass(frozen=True)
class ParameterDimension:
    """A dimension of a parameter outside layers."""

    name: str
    dimension: int

    @contextlib.contextmanager
    def marking(
        self, model: nn.Module, inputs: tuple[Any, ...], marked: torch.Tensor | None
    ) -> Iterator[tuple[Any, ...]]:
        """Mark these channels, or all, inside the block."""
        owner, _, key = self.name.rpartition(".")
        parameters = model.get_submodule(owner)._parameters
        own = cast(torch.Tensor, parameters[key])
        parameters[key] = nn.Parameter(_marked(own.detach(), self.dimension, marked), requires_grad=False)
        try:
            yield inputs
        finally:
            parameters[key] = cast(nn.Parameter, own)


@dataclass(frozen=True)
class InputDimension:
    """A dimension of one of the tensors in the inputs."""

    number: int
    dimension: int

    @contextlib.contextmanager
    def marking(
        self,
        model: nn.Module,  # noqa: ARG002
        inputs: tuple[Any, ...],
        marked: torch.Tensor | None,
    ) -> Iterator[tuple[Any, ...]]:
        """Mark these channels, or all, inside the block."""
        counter = itertools.count()

        def change(tensor: torch.Tensor) -> torch.Tensor:
            return _marked(tensor, self.dimension, marked) if next(counter) == self.number else tensor

        yield map_tensors(inputs, change)


def _marked(tensor: torch.Tensor, dimension: int, marked: torch.Tensor | None) -> torch.Tensor:
    """The tensor with these channels, or all, set to NaN."""
    if marked is None:
        return all_marked(tensor)
    return tensor.index_fill(dimension, marked.nonzero().flatten().to(tensor.device), float("nan"))


def same_marks(one: Marks, other: Marks) -> bool:
    """Whether the same channels of the same places are marked."""
    return one.keys() == other.keys() and all(torch.equal(one[place], other[place]) for place in one)


@dataclass(frozen=True)
class Watch:
    """What is recorded of the places that marks reach.

    Attributes:
        skipped: not recorded.
        partial: collects places where a channel is marked at some positions only.
    """

    skipped: Collection[Place] = ()
    partial: set[Place] = field(default_factory=set)


def marked_by(
    model: nn.Module, inputs: Any, seen: Marks, calls: CallRecord | None = None, watched: Watch | None = None
) -> Marks:
    """Run a model, and add the channels that marks in its inputs, parameters or hooks reach.

    Args:
        model: may have hooks that mark; not changed.
        inputs: positional arguments.
        seen: added to, and returned.
        calls: record of the calls; None: they are not recorded.
        watched: what is recorded of places; None: all of them.
    """
    undisturbed = fixed_seeds(device_of(model))
    masks = sdpa_kernel(SDPBackend.MATH)  # other kernels treat NaN as a masked position
    hooks = _watchers(model, seen, watched or Watch())
    with temporary_hooks(hooks), torch.no_grad(), undisturbed, masks, NeutralNormalization(calls):
        answer = model(*inputs)
    if calls is not None:
        calls.record_result(answer)
    if any(bool(tensor.isnan().any()) for tensor in flatten_tensors(answer)):
        seen[FIXED[:2]] = torch.ones(1, dtype=torch.bool)
    return seen


def _watchers(model: nn.Module, seen: Marks, watched: Watch) -> list[RemovableHandle]:
    """Hooks that record marks at the inputs of layers, and where they end or pass."""
    places = ((module, _place(name, module)) for name, module in model.named_modules())
    return [
        module.register_forward_pre_hook(_marking_hook(seen, at, watched.partial), with_kwargs=True)
        for module, at in places
        if at and at not in watched.skipped
    ]


def _place(name: str, module: nn.Module) -> Place | None:
    if isinstance(module, FILTER_TYPES):  # inputs of a depthwise convolution are its filters
        return ("out" if layer_shape(module).depthwise else "in"), name
    if isinstance(module, MIXING):
        return FIXED[:2]
    return ("by", name) if isinstance(module, NORMS) else None


def _marking_hook(seen: Marks, place: Place, partial: set[Place]) -> Any:
    def take(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        found, everywhere = _channels(module, flatten_tensors((arguments, keywords)), whole=place == FIXED[:2])
        if bool(found.any()):
            seen[place] = found | seen.get(place, torch.zeros_like(found))
        if place[0] == "in" or place == FIXED[:2]:
            return map_tensors(arguments, _without_marks), map_tensors(keywords, _without_marks)
        if not torch.equal(found, everywhere):
            partial.add(place)
        return None

    return take


def _channels(module: nn.Module, given: list[torch.Tensor], *, whole: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Which input channels of a module are marked, anywhere and everywhere; as a whole, whether any is."""
    if whole:
        found = torch.tensor([any(bool(tensor.isnan().any()) for tensor in given)])
        return found, found
    at_end = isinstance(module, (*FILTER_TYPES, nn.LayerNorm))
    marked = given[0].isnan().movedim(channel_dimension(module) if at_end else 1, 0).flatten(1)
    return marked.any(1).cpu(), marked.all(1).cpu()


def positions(seen: Marks) -> Iterator[ChannelPosition]:
    """The marked channels, one by one."""
    for place, channels in seen.items():
        yield from ((*place, index) for index in channels.nonzero().flatten().tolist())


def all_marked(tensor: torch.Tensor) -> torch.Tensor:
    """A marked tensor of the same kind; other than floating point numbers cannot be marked."""
    return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor


def _without_marks(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.masked_fill(tensor.isnan(), 0) if tensor.is_floating_point() else tensor
