"""Where the channels of a coupling are read: the inputs of the layers that consume them.

These inputs have passed everything in between: norms, sums, non-linearities, poolings. Removing a channel equals zeros
in these inputs (norms over all channels excepted), so its effect on the loss is measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from autocompress.compression.layers import FILTER_TYPES, RECURRENT_TYPES, TransposedLinear
from autocompress.compression.pruning.groups import ChannelSlice, Coupling
from autocompress.compression.pruning.recurrent import UnrolledLayer, input_columns

_READERS: tuple[type[nn.Module], ...] = (*FILTER_TYPES, *RECURRENT_TYPES, UnrolledLayer)


@dataclass(frozen=True)
class ReadSite:
    """A tensor that holds the channels of a coupling: the input of a layer that reads them.

    Attributes:
        name: of the layer.
        indices: its input channels that belong to the coupling.
        roots: the root layer's channel of each of them; repeated after a flattening.
        width: channels of the root layer.
        channels: all channels of the tensor.
        output: whether it is the output of the layer or norm instead.
        tap: whether the layer stands for all that reads the hidden units of a recurrent layer.
    """

    name: str
    indices: torch.Tensor
    roots: torch.Tensor
    width: int
    channels: int
    output: bool = False
    tap: bool = False

    def watch(self, model: nn.Module, see: Callable[[torch.Tensor], None]) -> RemovableHandle:
        """Call a function with the tensor in each forward pass of the model."""
        module = model.get_submodule(self.name)
        if self.output:
            return module.register_forward_hook(lambda _, __, made: see(made))

        def taking(_: nn.Module, given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            taken = given[0] if given else next(iter(keywords.values()), None)
            taken = taken.data if isinstance(taken, PackedSequence) else taken
            if isinstance(taken, torch.Tensor):
                see(taken)

        return module.register_forward_pre_hook(taking, with_kwargs=True)

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """(..., input channels) -> (..., channels of the root layer), the sum over repeated channels."""
        empty = values.new_zeros(*values.shape[:-1], self.width)
        return empty.index_add(-1, self.roots.to(values.device), values[..., self.indices.to(values.device)])

    def block(self, parts: int) -> int | None:
        """Consecutive channels per part if the tensor was flattened from `parts` channels; None if it was not."""
        size = self.channels // parts
        owners = dict(zip((self.indices // size).tolist(), self.roots.tolist(), strict=True)) if size else {}
        found = torch.tensor([owners.get(index, -1) for index in (self.indices // max(1, size)).tolist()])
        return size if size * parts == self.channels and torch.equal(found, self.roots) else None

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Like `total`, averaged."""
        return self.total(values) / self.total(torch.ones_like(values)).clamp_min(1)


def read_sites(
    coupling: Coupling, model: nn.Module, behind: Mapping[str, str], *, gated: bool = False
) -> list[ReadSite]:
    """All inputs where the channels of a coupling are read.

    Args:
        coupling: of the model.
        model: with recurrent layers that are computed step by step.
        behind: layer -> the module whose output is the layer's.
        gated: only the taps where only recurrent layers make the channels, as all readers are behind them.

    Returns:
        the output of the coupling's root if only operations such as a matrix product read them, and no layer.
    """
    modules, found = dict(model.named_modules()), list[ReadSite]()
    for place in coupling.places:
        module, reading = modules.get(place.name), place.prune.__name__ == "prune_in_channels"
        if isinstance(module, UnrolledLayer) and not reading:
            found += _taps(place, coupling.width, module)
        if module is not None and reading and isinstance(module, _READERS) and None not in place.roots:
            found.append(_site(place.name, place, coupling.width, len(_by_input(module))))
    if gated and all(isinstance(modules[name], UnrolledLayer) for name in coupling.members):
        found = [site for site in found if site.tap]
    root = coupling.places[0]
    width = root.channels or coupling.width
    return found or [replace(_site(behind[root.name], root, coupling.width, width), output=True)]


def _site(name: str, place: ChannelSlice, width: int, channels: int) -> ReadSite:
    roots = torch.tensor(cast("tuple[int, ...]", place.roots))
    return ReadSite(name, torch.tensor(place.indices), roots, width, channels)


def _taps(place: ChannelSlice, width: int, layer: UnrolledLayer) -> Iterator[ReadSite]:
    size = layer.layer.hidden_size
    for cell in range(len(layer.taps)):
        own = [
            (index % size, cast(int, root))
            for index, root in zip(place.indices, place.roots, strict=True)
            if index // size == cell
        ]
        indices, roots = (torch.tensor(each) for each in zip(*own, strict=True))
        yield ReadSite(f"{place.name}.taps.{cell}", indices, roots, width, size, tap=True)


def by_position(layer: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """A layer's input, or the output of a layer or a norm, as (samples, positions, channels)."""
    if isinstance(layer, _ConvNd):
        tensor = tensor.movedim(-1 - len(layer.kernel_size), -1)
    elif not isinstance(layer, _READERS) and tensor.dim() > 2:  # BatchNorm
        tensor = tensor.movedim(1, -1)
    tensor = tensor[None] if tensor.dim() == 1 else tensor
    return tensor.flatten(1, -2) if tensor.dim() > 2 else tensor[:, None]


def input_norms(layer: nn.Module) -> torch.Tensor:
    """Norm of all weights that read each input channel of a layer."""
    norms: torch.Tensor = torch.linalg.vector_norm(_by_input(layer).float(), dim=1)
    return norms


def _by_input(layer: nn.Module) -> torch.Tensor:
    """The weights of a layer as one row per input channel."""
    if isinstance(layer, (*RECURRENT_TYPES, UnrolledLayer)):
        return input_columns(cast(nn.RNNBase, layer.layer if isinstance(layer, UnrolledLayer) else layer))
    weight = cast(torch.Tensor, layer.weight).detach()
    if not isinstance(layer, _ConvNd):
        return weight if isinstance(layer, TransposedLinear) else weight.T
    if not layer.transposed:  # (out, in / groups, ...) -> (in, out / groups, ...)
        weight = weight.reshape(layer.groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return weight.flatten(1)


class PoolingRecorder(TorchFunctionMode):
    """Records the inputs of poolings, flattenings and dropout, to recover the output of the non-linearity.

    Operations that mix or move channels, or batches with positions, are not recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(self, func: Any, types: Iterable[Any], args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record its input."""
        found = func(*args, **(kwargs or {}))
        if args and _keeps_channels(getattr(func, "__name__", ""), args, kwargs or {}, found):
            self._made[id(found)] = (found, args[0])  # keeps the result alive, and so its id unique
        return found

    def origin(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor before pooling, flattening or dropout."""
        while id(tensor) in self._made:
            tensor = self._made[id(tensor)][1]
        return tensor

    def forget(self) -> None:
        """Release all tensors."""
        self._made.clear()


def _keeps_channels(name: str, args: Any, kwargs: Mapping[str, Any], made: Any) -> bool:
    """Whether each channel of the result, at dimension 1, is one of the input's at other positions."""
    given = args[0]
    if not (isinstance(given, torch.Tensor) and isinstance(made, torch.Tensor)) or given is made or made.dim() < 2:
        return False
    if "pool" in name or "dropout" in name:
        return given.dim() == made.dim() and given.shape[:2] == made.shape[:2]
    if name in ("flatten", "reshape", "view"):
        return made.dim() == 2 < given.dim() and given.shape[0] == made.shape[0]
    return name == "mean" and _is_of_positions(kwargs.get("dim", args[1] if len(args) > 1 else None), given.dim())


def _is_of_positions(averaged: Any, dimensions: int) -> bool:
    chosen = (averaged,) if isinstance(averaged, int) else tuple(averaged or ())
    return bool(chosen) and {0, 1}.isdisjoint(at % dimensions for at in chosen)
