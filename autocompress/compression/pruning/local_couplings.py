"""Couplings inside single blocks of a model, where the whole model cannot be followed: features and heads.

A block is the smallest module around a layer in which the layer's channels begin and end: what goes in and comes out
stays as it is. It runs alone, with the inputs of its call in the model, and channels are traced by marking. Blocks of
the same class and shapes get the same couplings.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autocompress.compression.base import layer_shape
from autocompress.compression.layers import FILTER_TYPES, supported_layers
from autocompress.compression.model_state import device_of, temporary_hooks, to_device
from autocompress.compression.pruning.channel_marks import ChannelPosition
from autocompress.compression.pruning.channel_tracing import ChannelTracer
from autocompress.compression.pruning.dependency_graph import TracingEffort
from autocompress.compression.pruning.equivalence import CutVerifier, Mismatch
from autocompress.compression.pruning.groups import Coupling, removals, trial_channels
from autocompress.compression.pruning.marked_couplings import (
    Permission,
    coupling_group,
    outer_modules,
    verified_coupling,
)
from autocompress.compression.pruning.reference_models import fixed_seeds
from autocompress.errors import CompressionError

_logger = logging.getLogger(__name__)

_MOST_CALLS = 2
"""Calls of a block that are traced: a layer of a decoder may be called in several ways."""

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class BlockCalls(nn.Module):
    """Runs a block with the inputs of its calls; arguments that have a state, such as caches, are copied before."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *calls: Call) -> list[Any]:
        """The block's outputs."""
        return [self.block(*_fresh(arguments), **_fresh(keywords)) for arguments, keywords in calls]


def _fresh(value: Any) -> Any:
    if type(value) in (tuple, list):
        return type(value)(_fresh(each) for each in value)
    if type(value) is dict:
        return {key: _fresh(each) for key, each in value.items()}
    return value if isinstance(value, torch.Tensor | nn.Module | str | int | float | None) else copy.deepcopy(value)


def local_couplings(
    model: nn.Module, inputs: tuple[Any, ...], layers: Iterable[str], allowed: Permission, effort: TracingEffort
) -> list[Coupling]:
    """Couplings of these layers inside blocks; each is right where its block alone is run.

    Args:
        model: in eval mode; not changed.
        inputs: positional arguments of one forward pass.
        layers: names of layers; those in no coupling are not free in any block.
        allowed: what may lose channels.
        effort: ends the tracing.
    """
    waiting = {name: outer_modules(name)[:-1] for name in layers}
    found, done = list[Coupling](), set[str]()
    while waiting := {name: outer for name, outer in waiting.items() if outer}:
        alike = _alike(model, {outer.pop(0) for outer in waiting.values()}, waiting)
        calls = recorded_calls(model, inputs, [blocks[0] for blocks in alike])
        for blocks in alike:
            known = {name for coupling in found for name in coupling.members}
            own, failed = list[Coupling](), set[str]()
            try:
                given = calls.get(blocks[0], ())
                _trace_block(
                    model, blocks[0], given, waiting.keys() - known - done, allowed, known, effort, (own, failed)
                )
            except CompressionError as error:
                _logger.warning("not all layers are traced: %s", error)
                return found + [each for block in blocks for each in _renamed(model, own, block, allowed)]
            except Exception:  # noqa: BLE001 - the block does not run alone, or not with such inputs
                continue
            found += [each for block in blocks for each in _renamed(model, own, block, allowed)]
            done |= {_renamed_place(name, block) for name in failed for block in blocks}
        done |= {name for coupling in found for name in coupling.members}
        waiting = {name: outer for name, outer in waiting.items() if name not in done}
    return found


def _alike(model: nn.Module, blocks: Collection[str], waiting: Collection[str]) -> list[list[str]]:
    """Blocks with several layers, those of the same class and shapes together."""
    found: dict[Any, list[str]] = defaultdict(list)
    for block in sorted(blocks, key=lambda name: (-name.count("."), name)):  # inner ones first
        module = model.get_submodule(block)
        layers = supported_layers(module, FILTER_TYPES)
        if len(layers) > 1 and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            shapes = tuple((name, tuple(each.shape)) for name, each in module.named_parameters())
            own = tuple(name for name in layers if f"{block}.{name}" in waiting)
            found[type(module), shapes, own].append(block)
    return list(found.values())


def _trace_block(
    model: nn.Module,
    name: str,
    calls: Sequence[Call],
    waiting: Collection[str],
    allowed: Permission,
    known: Collection[str],
    effort: TracingEffort,
    results: tuple[list[Coupling], set[str]],
) -> None:
    """Add the couplings of a block alone, which is called `block`, to the results.

    Also the layers whose channels end in the block but cannot go: in a larger block the same channels are coupled.
    """
    if not calls:
        return
    block = BlockCalls(model.get_submodule(name)).eval()
    inputs, layers = tuple(calls), supported_layers(block, FILTER_TYPES)
    inner = {each: f"{name}{each.removeprefix('block')}" for each, _ in block.named_modules() if each}
    may = Permission(
        frozenset(each for each, whole in inner.items() if whole in allowed.prunable),
        frozenset(each for each, whole in inner.items() if whole in allowed.fixed),
    )
    open_layers = [each for each in layers if inner[each] not in known and not layer_shape(layers[each]).depthwise]
    roots = [each for each in open_layers if inner[each] in waiting]
    roots.sort(key=lambda each: -layer_shape(layers[each]).width)
    verifier = CutVerifier(block, inputs)
    found, failed = results
    done = set[str]()

    def mismatch(tried: Coupling) -> Mismatch | None:
        effort.check()
        return verifier.mismatch(removals([(each, trial_channels(each)) for each in (*found, tried)]))

    skipped: set[tuple[str, str]] = set()
    for _ in range(2):
        tracer = ChannelTracer(block, inputs, effort, skipped, crops=False)
        tracer.trace(open_layers)
        tried, wrong = set[str](), set[frozenset[tuple[ChannelPosition, ...]]]()
        for root in (root for root in roots if root not in done):
            units = tracer.coupled_sets(root) or []
            key = frozenset(map(tuple, units))
            coupling = None if key in wrong else verified_coupling(block, root, units, may, mismatch)
            if coupling is None:
                wrong.add(key)
                tried |= {root} if units else set()
            else:
                found.append(coupling)
                done |= set(coupling.members)
        failed |= tried
        failed -= done
        skipped = tracer.partial
        if not skipped or done >= set(roots):
            break


def _renamed(model: nn.Module, couplings: Iterable[Coupling], block: str, allowed: Permission) -> list[Coupling]:
    """The couplings of a block, as those of a block like it in the model."""
    found = []
    for coupling in couplings:
        places = tuple(replace(place, name=_renamed_place(place.name, block)) for place in coupling.places)
        members = tuple(_renamed_place(name, block) for name in coupling.members)
        if set(members) <= allowed.prunable and not {place.name for place in places} & allowed.fixed:
            found.append(replace(coupling, places=places, members=members, group=coupling_group(model, places)))
    return found


def _renamed_place(name: str, block: str) -> str:
    return f"{block}{name.removeprefix('block')}"


def recorded_calls(model: nn.Module, inputs: tuple[Any, ...], blocks: Iterable[str]) -> dict[str, list[Call]]:
    """The inputs of the first calls of each of these modules in a forward pass."""
    found: dict[str, list[Call]] = defaultdict(list)

    def take(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if len(found[name]) < _MOST_CALLS:
                found[name].append(copy.deepcopy((arguments, keywords)))

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(take(name), with_kwargs=True) for name in blocks]
    device = device_of(model)
    with temporary_hooks(hooks), torch.no_grad(), fixed_seeds(device):
        model(*to_device(inputs, device))
    return found


def attention_modules(model: nn.Module, inputs: tuple[Any, ...]) -> frozenset[str]:
    """Names of the modules that compute attention: softmax over the last of several dimensions, or the fused kernel."""
    names = [name for name, module in model.named_modules() if _may_attend(module)]
    recorder = _AttentionRecorder()
    hooks = [model.get_submodule(name).register_forward_pre_hook(recorder.enter(name)) for name in names]
    hooks += [model.get_submodule(name).register_forward_hook(recorder.leave) for name in names]
    device = device_of(model)
    with temporary_hooks(hooks), torch.no_grad(), fixed_seeds(device), recorder:
        model(*to_device(inputs, device))
    return frozenset(recorder.found)


def _may_attend(module: nn.Module) -> bool:
    return isinstance(module, nn.MultiheadAttention) or any(
        isinstance(each, FILTER_TYPES) for each in module.children()
    )


class _AttentionRecorder(TorchFunctionMode):
    """Records the innermost module in which attention is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._running: list[str] = []

    def enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.append(name)

    def leave(self, *_: Any) -> None:
        self._running.pop()

    def __torch_function__(self, func: Any, types: Iterable[Any], args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and record where."""
        if self._running and (func in _ATTENTION or (func in _SOFTMAX and _over_last(args, kwargs or {}))):
            self.found.add(self._running[-1])
        return func(*args, **(kwargs or {}))


_ATTENTION = {functional.scaled_dot_product_attention, functional.multi_head_attention_forward}
_SOFTMAX = {functional.softmax, torch.softmax, torch.Tensor.softmax}


def _over_last(arguments: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    given = arguments[0] if arguments else keywords["input"]
    dimension = keywords.get("dim", arguments[1] if len(arguments) > 1 else None)
    return given.dim() > 2 and dimension in (-1, given.dim() - 1)
