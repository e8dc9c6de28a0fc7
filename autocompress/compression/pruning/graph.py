"""Coupled channels of layers, from torch-pruning's dependency graph.

Source: Fang et al. 2023, DepGraph: Towards Any Structural Pruning, arXiv:2301.12900.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from autocompress.compression.base import LayerShape, computed_parameters
from autocompress.compression.layers import FILTER_TYPES, registered_types
from autocompress.compression.model_state import tied_parameters
from autocompress.compression.pruning.dependency_graph import (
    SOURCES,
    TracingEffort,
    TracingLimit,
    build_graph,
    uncalled_layers,
    upstream,
)
from autocompress.compression.pruning.groups import ChannelSlice, Coupling
from autocompress.errors import CompressionError

_NORM = re.compile("(layer|rms)_?norm", re.IGNORECASE)

_UNTRACED = "its channels cannot be traced to what reads them, through reshapes or operations on whole tensors between"

_logger = logging.getLogger(__name__)


class ChannelGraph:
    """The dependency graph of a model; valid as long as nothing else changes the model.

    Args:
        model: with stand-ins for recurrent layers, whose loops cannot be traced.
        example_inputs: positional arguments of one forward pass.
        original: sizes of the uncompressed model's layers.
        fixed: ids of modules that must keep their size, beside those found here, each with a reason.

    Attributes:
        outputs: names of the layers that produce the model's outputs.
        uncalled: names of the layers whose weights are used without calling them.

    Raises:
        CompressionError: the model cannot be traced with the example inputs.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        original: Mapping[str, LayerShape],
        fixed: Mapping[int, str] = MappingProxyType({}),
        effort: TracingEffort | None = None,
    ) -> None:
        self._original = original
        self._fixed = {**fixed_modules(model), **fixed}
        self._names = {module: name for name, module in model.named_modules()}
        self._kinds = {name: type(module).__name__ for module, name in self._names.items()}
        self._graph, roots = build_graph(model, example_inputs)
        self._limit = TracingLimit(self._graph, effort or TracingEffort())
        self.uncalled = uncalled_layers(model, self._graph, roots)
        self.outputs = self._output_layers(roots)

    def couplings(self, selected: Iterable[str]) -> tuple[list[Coupling], dict[str, str], dict[str, str]]:
        """All sets of filters that can be removed if only the selected layers may lose filters.

        torch-pruning traces all channels for each group, which takes most of the time in networks with many
        concatenations; the groups over all channels of a layer suffice for any choice of channels.

        Returns:
            the couplings, and for each selected layer in none of them the reason: first those that torch-pruning cannot
            trace, then those coupled with something that must stay.
        """
        chosen = set(selected)
        if self._graph.failure is not None:
            _logger.debug("the model's channels are not traced as a whole: %s", self._graph.failure)
            why = f"{_UNTRACED}; it keeps its filters"
            return [], {name: f"{name}: {why}" for name in chosen - self.outputs}, {}
        ignored, found, failed = set(self._untouchable(chosen)), list[Coupling](), dict[str, str]()
        visited = set[Any]()
        obstacles = {
            name: f"{name}: its weights are used without calling it, so that its channels cannot be traced; it keeps "
            "its filters"
            for name in self.uncalled
            if name in chosen
        }
        for layer in [module for module in self._graph.module2node if isinstance(module, FILTER_TYPES)]:
            if layer in ignored or layer in visited:
                continue
            name, losing = self._names[layer], [layer]
            try:
                group = self._group(layer)
                losing = [item.dep.target.module for item in group if self._loses_outputs(item.dep)]
                obstacle, reasons = self._obstacle(group, [each for each in losing if each in ignored]), obstacles
                if obstacle is None:
                    found.append(self._coupling(group))
            except Exception as error:  # torch-pruning's too, on operations that it does not know
                known = isinstance(error, CompressionError)
                if not known:
                    _logger.debug("%s: its channels are not traced", name, exc_info=error)
                obstacle = str(error) if known else _UNTRACED
                losing, reasons = [*losing, *self._limit.layers], failed
            visited.update(losing)
            if obstacle is not None:
                names = {self._names[each] for each in losing if isinstance(each, FILTER_TYPES)}
                reasons |= dict.fromkeys(sorted(names & chosen), f"{name}: {obstacle}; it keeps its filters")
        return found, failed, obstacles

    def prunable(self, selected: Iterable[str]) -> frozenset[str]:
        """Names of these layers that may lose filters by themselves."""
        untouchable = set(self._untouchable(set(selected)))
        return frozenset(
            self._names[layer]
            for layer in self._names
            if isinstance(layer, FILTER_TYPES) and layer not in untouchable and id(layer) not in self._fixed
        )

    @property
    def fixed(self) -> frozenset[str]:
        """Names of the modules that must keep their size."""
        return frozenset(name for module, name in self._names.items() if id(module) in self._fixed)

    def _group(self, layer: nn.Module) -> Any:
        """All channels of a layer and everything coupled with them."""
        pruner = self._graph.get_pruner_of_module(layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._limit.start()
            everything = list(range(pruner.get_out_channels(layer)))
            return self._graph.get_pruning_group(layer, pruner.prune_out_channels, everything)

    def _obstacle(self, group: Any, ignored: Iterable[nn.Module]) -> str | None:
        """Why nothing of the group may be removed; None if it may."""
        for layer in ignored:
            name = self._names[layer]
            if name in self.outputs:
                return f"it shares filters with {name}, which makes the model's outputs"
            heads = isinstance(layer, nn.MultiheadAttention)
            why = "whose width must stay divisible by its heads" if heads else "which may not lose any"
            return f"it shares filters with {name}, {why}"
        for item in group:
            module = item.dep.target.module
            if id(module) in self._fixed:
                own = module is group[0].dep.target.module
                where = "it" if own else f"it shares channels with {self._all_names[module]}, which"
                return f"{where} {self._fixed[id(module)]}, so that its size must stay"
        if all(self._original[self._names[layer]].depthwise for layer in self._losing(group)):
            return "its channels are those of what feeds it, which cannot lose any"
        return None

    def _coupling(self, group: Any) -> Coupling:
        """The group with modules by name."""
        members = tuple(self._names[layer] for layer in self._losing(group))
        least, most = (choose(members, key=lambda name: self._original[name].width) for choose in (min, max))
        if self._original[least].width == 1 < self._original[most].width:  # a mask that is multiplied with channels
            raise CompressionError(f"{most} shares filters with {least}, which has a single one")
        places = tuple(self._places(group))
        for place in places:
            if place.channels is not None and max(place.indices, default=0) >= place.channels:
                raise CompressionError(f"its channels cannot be traced to {place.name}")
        for item in group:
            layer = item.dep.target.module
            if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1:
                raise CompressionError(f"{self._names[layer]} normalizes more than its channels together")
        return Coupling(places, members, self._channel_groups(group), group)

    @property
    def _all_names(self) -> dict[Any, str]:
        """Names of modules, and of parameters outside layers."""
        return {**self._names, **self._graph._param_to_name}

    def _loses_outputs(self, dependency: Any) -> bool:
        return bool(self._graph.is_out_channel_pruning_fn(dependency.handler))

    def _places(self, group: Any) -> Iterator[ChannelSlice]:
        names = self._all_names
        for item in group:
            target, prune = item.dep.target, item.dep.handler
            if target.module in names:  # else an operation without parameters
                out = self._graph.is_out_channel_pruning_fn(prune)
                has = self._graph.get_out_channels(target) if out else self._graph.get_in_channels(target)
                yield ChannelSlice(
                    names[target.module], prune, target.pruning_dim, tuple(item.idxs), tuple(item.root_idxs), has
                )

    def first_convolutions(self) -> set[str]:
        """Names of the convolutions without another convolution or linear layer before them."""
        nodes = [node for node in self._graph.module2node.values() if isinstance(node.module, _ConvNd)]
        return {self._names[node.module] for node in nodes if not any(map(_is_layer, upstream(node.inputs)))}

    def downsampling_convolutions(self) -> set[str]:
        """Names of the convolutions with a stride above 1 in all dimensions."""
        nodes = [module for module in self._graph.module2node if isinstance(module, _ConvNd) and not module.transposed]
        return {self._names[module] for module in nodes if all(stride > 1 for stride in module.stride)}

    def residual_layers(self, attention: Iterable[str]) -> frozenset[str]:
        """Names of the layers that write what a LayerNorm or RMSNorm normalizes and these modules read.

        What is added to the same values belongs to them, whatever reads it.
        """
        nodes, within = self._graph.module2node, tuple(f"{name}." for name in attention)
        norms = {node: self._written(node) for node in nodes.values() if self._is_norm(node)}
        norms = {node: made for node, made in norms.items() if not self._share(within, [node, *made])}  # of queries
        readers = [
            nodes[module]
            for module, name in self._names.items()
            if module in nodes and isinstance(module, SOURCES) and f"{name}.".startswith(within)
        ]
        inside = {node for node in readers if not _is_layer(node)}
        read = set(_made_by(before for node in readers for before in node.inputs))
        hidden = {name.rpartition(".")[0] for name in attention if name in self._outer_uncalled}
        beside = {node for node in norms if self._all_names.get(node.module, "").rpartition(".")[0] in hidden}
        found = {layer for norm, layers in norms.items() if norm in read | beside for layer in layers}
        while more := {layer for layers in norms.values() if layers & found for layer in layers} - found:
            found |= more
        return frozenset(self._names[node.module] for node in found - inside if _is_layer(node))

    @property
    def _outer_uncalled(self) -> set[str]:
        """Names of the modules that use the weights of their layers without calling these."""
        return {name.rpartition(".")[0] for name in self.uncalled}

    def _share(self, within: Iterable[str], nodes: Collection[Any]) -> bool:
        """Whether all of these are in one of the modules."""
        names = [self._all_names.get(node.module, "") for node in nodes]
        return any(all(name.startswith(each) for name in names) for each in within)

    def _written(self, norm: Any) -> set[Any]:
        """The nearest layers before a norm."""
        around = norm.outputs if isinstance(norm.module, nn.Parameter) else [norm]
        before = _made_by(before for node in around for before in node.inputs)
        return {node for node in before if isinstance(node.module, SOURCES)}

    def _is_norm(self, node: Any) -> bool:
        """Whether it is a norm over features, or the scale of one that torch-pruning does not know."""
        if isinstance(node.module, nn.Parameter):
            owner = self._all_names.get(node.module, "").rpartition(".")[0]
            return bool(_NORM.search(self._kinds.get(owner, "")))
        return bool(_NORM.search(type(node.module).__name__))

    def batchnorm_behind(self, layers: Iterable[str]) -> dict[str, str]:
        """For each layer the name of the BatchNorm that is the only consumer of its output, or its own name."""
        nodes = {self._names.get(module): node for module, node in self._graph.module2node.items()}
        found = {}
        for name in layers:
            after = nodes[name].outputs if name in nodes else []
            alone = after[0].module if len(after) == 1 else None
            found[name] = self._names[alone] if isinstance(alone, _BatchNorm) else name
        return found

    def _losing(self, group: Any) -> list[nn.Module]:
        """The layers that lose filters with the group, each once."""
        losing = (item.dep.target.module for item in group if self._loses_outputs(item.dep))
        return list(dict.fromkeys(layer for layer in losing if isinstance(layer, FILTER_TYPES)))

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
        """The nearest layers, upstream of the outputs, that produce channels of their own."""
        nodes = [node for node in self._graph.module2node.values() if not node.outputs or node.grad_fn in roots]
        layers = [node for node in upstream(nodes, self._passes_on) if _is_layer(node)]
        return frozenset(self._names[node.module] for node in layers if node.module in self._names)

    def _passes_on(self, node: Any) -> bool:
        """Whether its output's channels are its input's."""
        name = self._names.get(node.module)
        return not isinstance(node.module, SOURCES) or (name is not None and self._depthwise(name))


def _made_by(starts: Iterable[Any]) -> Iterator[Any]:
    """These nodes and all before them, up to the nearest layers."""
    return upstream(starts, lambda node: not isinstance(node.module, SOURCES))


def _is_layer(node: Any) -> bool:
    return isinstance(node.module, FILTER_TYPES)


def fixed_modules(model: nn.Module) -> dict[int, str]:
    """Ids of modules and parameters whose size must stay, each with what it is, as words behind its name."""
    found = dict[int, str]()
    for module in model.modules():
        for name, how in computed_parameters(module).items():
            found[id(module)] = f"has a {name} that is computed from other parameters, by {how}"
        if isinstance(module, registered_types()):
            found |= {id(part): "is registered" for part in (*module.modules(), *module.parameters())}
    shared = {id(model.get_submodule(name)) for places in tied_parameters(model) for name, _ in places}
    return found | dict.fromkeys(shared, "is tied to another layer")
