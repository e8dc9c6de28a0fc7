"""Which channels of which layers belong together: a thin layer over torch-pruning's dependency graph.

Source: Fang et al. 2023, DepGraph: Towards Any Structural Pruning, arXiv:2301.12900.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autocompress.compress.base import LayerShape
from autocompress.compress.layers import FILTER_TYPES
from autocompress.compress.pruning.coupling import Coupling, Place
from autocompress.compress.pruning.following import Followed
from autocompress.compress.registered import registered_types
from autocompress.compress.state import device_of, moved, tensors
from autocompress.compress.ties import tied_parameters
from autocompress.errors import CompressionError

_SOURCES = (*FILTER_TYPES, nn.LSTM, nn.MultiheadAttention, nn.Embedding)
"""Layers whose output channels do not depend on their input channels (depthwise convolutions apart)."""


class ChannelGraph:
    """The dependency graph of a model; valid as long as only it changes the model.

    Attributes:
        outputs: names of the layers that make the model's outputs.

    Raises:
        CompressionError: the model cannot be traced with the example inputs.
    """

    def __init__(self, model: nn.Module, example_inputs: tuple[Any, ...], original: Mapping[str, LayerShape]) -> None:
        _require_followable(model)
        self._original = original
        self._fixed = _fixed(model)
        self._names = {module: name for name, module in model.named_modules()}
        self._graph, roots = _traced(model, example_inputs)
        self._followed = Followed(self._graph)
        self.outputs = self._output_layers(roots)
        for node in self._graph.module2node.values():
            _describe_flattening(node)

    def couplings(self, selected: Iterable[str]) -> tuple[list[Coupling], dict[str, str]]:
        """All sets of filters that can be removed when only the selected layers may lose filters.

        torch-pruning follows all channels of the model anew for each group that it is asked for, which takes most of
        the time on networks with many concatenations; what it says once of whole groups is enough for any choice of
        their channels.

        Returns:
            the couplings, and for each layer from which torch-pruning fails to follow the channels a sentence why.
        """
        ignored, found, failed = set(self._untouchable(set(selected))), list[Coupling](), dict[str, str]()
        visited: set[Any] = set()
        for layer in [module for module in self._graph.module2node if isinstance(module, FILTER_TYPES)]:
            if layer in ignored or layer in visited:
                continue
            name, losing = self._names[layer], [layer]
            try:
                group = self._group(layer)
                losing = [item.dep.target.module for item in group if self._loses_outputs(item.dep)]
                visited.update(losing)
                if not ignored.intersection(losing) and (coupling := self._coupling(group)) is not None:
                    found.append(coupling)
            except Exception as error:  # noqa: BLE001 - torch-pruning's too, on operations that it does not know
                how = f"{type(error).__name__}: {error}"
                why = error if isinstance(error, CompressionError) else f"its channels cannot be followed ({how})"
                sentence = f"{name}: {why}; it keeps its filters"
                losing = list(dict.fromkeys((*losing, *self._followed.layers)))
                visited.update(losing)
                failed |= {self._names[each]: sentence for each in losing if isinstance(each, FILTER_TYPES)}
        return found, failed

    def free(self, selected: Iterable[str]) -> frozenset[str]:
        """Names of the layers of these that may lose filters, as far as they alone are concerned."""
        untouchable = set(self._untouchable(set(selected)))
        return frozenset(
            self._names[layer]
            for layer in self._names
            if isinstance(layer, FILTER_TYPES) and layer not in untouchable and id(layer) not in self._fixed
        )

    @property
    def bound(self) -> frozenset[str]:
        """Names of the modules that must keep their size."""
        return frozenset(name for module, name in self._names.items() if id(module) in self._fixed)

    def _group(self, layer: nn.Module) -> Any:
        """All channels of a layer and all that belongs to them."""
        pruner = self._graph.get_pruner_of_module(layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._followed.start()
            everything = list(range(pruner.get_out_channels(layer)))
            return self._graph.get_pruning_group(layer, pruner.prune_out_channels, everything)

    def _coupling(self, group: Any) -> Coupling | None:
        """The group by names; None: none of it may go."""
        members = tuple(self._names[layer] for layer in self._losing(group))
        on_inputs = all(self._original[name].depthwise for name in members)  # nothing that could lose feeds them
        if on_inputs or any(id(item.dep.target.module) in self._fixed for item in group):
            return None
        places = tuple(self._places(group))
        for place in places:
            if place.channels is not None and max(place.indices, default=0) >= place.channels:
                raise CompressionError(f"its channels cannot be followed to {place.name}")
        for item in group:
            layer = item.dep.target.module
            if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1:
                raise CompressionError(f"{self._names[layer]} normalizes more than its channels together")
        return Coupling(places, members, self._channel_groups(group), group)

    def _loses_outputs(self, dependency: Any) -> bool:
        return bool(self._graph.is_out_channel_pruning_fn(dependency.handler))

    def _places(self, group: Any) -> Iterator[Place]:
        names = {**self._names, **self._graph._param_to_name}
        for item in group:
            target, prune = item.dep.target, item.dep.handler
            if target.module in names:  # else an operation of the forward pass, which has nothing to remove
                out = self._graph.is_out_channel_pruning_fn(prune)
                has = self._graph.get_out_channels(target) if out else self._graph.get_in_channels(target)
                yield Place(
                    names[target.module], prune, target.pruning_dim, tuple(item.idxs), tuple(item.root_idxs), has
                )

    def first_convolutions(self) -> set[str]:
        """Names of the convolutions that no other convolution or linear layer comes before."""
        nodes = [node for node in self._graph.module2node.values() if isinstance(node.module, _ConvNd)]
        return {self._names[node.module] for node in nodes if not any(map(_is_layer, _upstream(node.inputs)))}

    def normalized(self, layers: Iterable[str]) -> dict[str, str]:
        """For each layer the name of the BatchNorm that alone takes its output, or its own name."""
        nodes = {self._names.get(module): node for module, node in self._graph.module2node.items()}
        found = {}
        for name in layers:
            after = nodes[name].outputs if name in nodes else []
            alone = after[0].module if len(after) == 1 else None
            found[name] = self._names[alone] if isinstance(alone, _BatchNorm) else name
        return found

    def _losing(self, group: Any) -> Iterator[nn.Module]:
        seen = set()
        for dependency, _ in group:
            layer = dependency.target.module
            if isinstance(layer, FILTER_TYPES) and self._loses_outputs(dependency):
                if layer not in seen:
                    yield layer
                seen.add(layer)

    def _channel_groups(self, group: Any) -> int:
        counts = [1]
        for dependency, _ in group:
            layer = dependency.target.module
            if isinstance(layer, FILTER_TYPES):
                shape = self._original[self._names[layer]]
                counts.append(1 if shape.depthwise else shape.groups)
            elif isinstance(layer, nn.GroupNorm):
                counts.append(layer.num_groups)
        return max(counts)

    def _untouchable(self, selected: set[str]) -> list[nn.Module]:
        return [
            layer
            for layer, name in self._names.items()
            if (isinstance(layer, FILTER_TYPES) and name not in selected)
            or isinstance(layer, nn.MultiheadAttention)  # its width must stay divisible by its heads
            or name in self.outputs
            or self._mistaken_for_depthwise(layer, name)
        ]

    def _depthwise(self, name: str) -> bool:
        return name in self._original and self._original[name].depthwise

    def _mistaken_for_depthwise(self, layer: nn.Module, name: str) -> bool:
        """torch-pruning takes any convolution with as many groups as filters for a depthwise one."""
        if not isinstance(layer, _ConvNd) or layer.groups != layer.out_channels or layer.groups == 1:
            return False
        return layer.in_channels != layer.out_channels or not self._original[name].depthwise

    def _output_layers(self, roots: set[Any]) -> frozenset[str]:
        """Walk back from the outputs to the nearest layers that make channels of their own."""
        nodes = [node for node in self._graph.module2node.values() if not node.outputs or node.grad_fn in roots]
        layers = [node for node in _upstream(nodes, self._passes_on) if _is_layer(node)]
        return frozenset(self._names[node.module] for node in layers if node.module in self._names)

    def _passes_on(self, node: Any) -> bool:
        """Whether its output's channels are its input's."""
        name = self._names.get(node.module)
        return not isinstance(node.module, _SOURCES) or (name is not None and self._depthwise(name))


def _upstream(starts: Iterable[Any], goes_on: Callable[[Any], bool] = lambda _: True) -> Iterator[Any]:
    """These nodes and all before them, each once; not what comes before a node where it does not go on."""
    waiting, seen = list(starts), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node
        if goes_on(node):
            waiting.extend(node.inputs)


def _is_layer(node: Any) -> bool:
    return isinstance(node.module, FILTER_TYPES)


def _require_followable(model: nn.Module) -> None:
    """Loops that are unrolled in the trace: torch-pruning fails on them or takes minutes."""
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and not isinstance(module, nn.LSTM):
            kind = type(module).__name__
            raise CompressionError(
                f"filter pruning cannot follow channels through recurrent layers other than LSTM; {name} is a {kind} "
                "(level needs no such thing)"
            )


def _fixed(model: nn.Module) -> set[int]:
    """Ids of modules and parameters whose size must stay: shared ones, registered ones, layers that cannot be cut."""
    shared = {id(model.get_submodule(name)) for places in tied_parameters(model) for name, _ in places}
    stacked = [module for module in model.modules() if isinstance(module, nn.LSTM) and module.num_layers > 1]
    registered = [module for module in model.modules() if isinstance(module, registered_types())]
    own = [part for module in registered for part in (*module.modules(), *module.parameters())]
    return shared | {id(part) for part in (*stacked, *own)}


def _traced(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[Any, set[Any]]:
    roots: set[Any] = set()

    def outputs(answer: Any) -> list[torch.Tensor]:
        differentiable = [tensor for tensor in tensors(answer) if tensor.grad_fn is not None]
        roots.update(tensor.grad_fn for tensor in differentiable)
        return differentiable

    graph = tp.DependencyGraph()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                model,
                moved(example_inputs, device_of(model)),
                forward_fn=lambda traced, inputs: traced(*inputs),
                output_transform=outputs,
                verbose=False,
            )
    except Exception as error:
        raise CompressionError(f"the model cannot be traced with the example inputs: {error}") from error
    if not roots:
        raise CompressionError("the model cannot be traced: none of its outputs depends on a parameter")
    return graph, roots


def _describe_flattening(node: Any) -> None:
    """torch-pruning follows channels through a flattening of two spatial dimensions; show it one and three as two."""
    sizes: Any = getattr(node.grad_fn, "_saved_self_sizes", ())
    if type(node.module).__name__ != "_ReshapeOp" or len(sizes) not in (3, 5):
        return
    if len(sizes) == 5 or _comes_from_conv1d(node):
        flat = (sizes[0], sizes[1], math.prod(sizes[2:]), 1)
        node.grad_fn = SimpleNamespace(_saved_self_sizes=flat)


def _comes_from_conv1d(node: Any) -> bool:
    """Whether three dimensions are (batch, channels, length), not (batch, length, features)."""
    before = _upstream(node.inputs, lambda near: not isinstance(near.module, _SOURCES))
    return any(isinstance(near.module, nn.Conv1d | nn.ConvTranspose1d) for near in before)
