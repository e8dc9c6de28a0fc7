"""torch-pruning's dependency graph with a bound on its work, as it would trace some structures for hours."""

from __future__ import annotations

import math
import operator
import resource
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from autocompress.compression.layers import FILTER_TYPES, TransposedLinear
from autocompress.compression.model_state import device_of, flatten_tensors, to_device
from autocompress.compression.pruning.groups import TRANSPOSED_LINEAR
from autocompress.errors import CompressionError

_MOST_STEPS = 2_000_000
"""Limit of traced channels, a few seconds; torchvision's largest classifier needs 400,000 for a layer."""

_SPREAD = 4
"""Limit of channels at one module, relative to the widest layer."""


TRACING_SECONDS, _MOST_GIGABYTES = 60.0, 3.0
"""Limits of tracing one model: processor time of this thread, so that they hold on a busy machine, and new memory."""


class TracingEffort:
    """Ends tracing that takes too long or too much."""

    def __init__(self, seconds: float = TRACING_SECONDS, gigabytes: float = _MOST_GIGABYTES) -> None:
        self._seconds, self._gigabytes = seconds, gigabytes
        self._started, self._memory = time.thread_time(), _peak_gigabytes()

    @property
    def is_spent(self) -> bool:
        """Whether a limit is passed."""
        return time.thread_time() - self._started > self._seconds or _peak_gigabytes() - self._memory > self._gigabytes

    def check(self) -> None:
        """CompressionError if a limit is passed."""
        if self.is_spent:
            raise CompressionError(self.reason)

    @property
    def reason(self) -> str:
        """The limits and the remedy."""
        return (
            f"tracing the channels must end within {self._seconds:g} s of processor time and "
            f"{self._gigabytes:g} GB of memory; allow more time (tracing_limit), exclude parts of the model "
            "(ignored_scopes), or give smaller example_inputs()"
        )


def _peak_gigabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class TracingLimit:
    """Bounds the work per layer by counts rather than by time, so that it ends alike on any machine.

    Channels multiply if the output of a layer becomes the weights of another operation, or is multiplied by channels,
    and is then flattened: each time round a cycle there are more.
    """

    def __init__(self, graph: Any, effort: TracingEffort) -> None:
        self._graph, self._steps, self._visits = graph, 0, 0
        self._reached: dict[Any, None] = {}
        self._effort = effort
        nodes = graph.module2node.values()
        sizes = [getattr(node.module, name, 0) for node in nodes for name in ("in_features", "out_features")]
        widths = [getattr(node.module, name, 0) for node in nodes for name in ("in_channels", "out_channels")]
        self._most = _SPREAD * max((*sizes, *widths), default=0)
        for node in nodes:
            for dependency in node.dependencies:
                dependency.index_mapping = _CountedMappings(dependency.index_mapping, self, dependency)

    def start(self) -> None:
        """Reset the counts for another layer."""
        self._steps = self._visits = 0
        self._reached.clear()

    @property
    def layers(self) -> list[Any]:
        """The layers reached so far that would lose filters."""
        return list(self._reached)

    def count(self, dependency: Any, channels: int) -> None:
        """Count channels that are about to be traced along a dependency; CompressionError if they are too many."""
        module = dependency.target.module
        if isinstance(module, FILTER_TYPES) and self._graph.is_out_channel_pruning_fn(dependency.handler):
            self._reached[module] = None
        self._effort.check()
        self._visits += 1
        self._steps += channels + self._visits // 8  # each visit searches all earlier ones
        if channels > self._most or self._steps > _MOST_STEPS:
            raise CompressionError("its channels cannot be traced, as their number multiplies")


class _CountedMappings(list[Any]):
    """Index mappings of a dependency, which torch-pruning applies in order."""

    def __init__(self, mappings: Sequence[Any], followed: TracingLimit, dependency: Any) -> None:
        super().__init__(mappings)
        self._followed, self._dependency = followed, dependency

    def __iter__(self) -> Iterator[Any]:
        yield self._count
        yield from super().__iter__()

    def _count(self, indices: list[Any]) -> list[Any]:
        factor = 1
        for mapping in super().__iter__():
            factor *= 1 if getattr(mapping, "reverse", True) else getattr(mapping, "_stride", 1)
        self._followed.count(self._dependency, len(indices) * factor)
        return indices


SOURCES = (*FILTER_TYPES, nn.MultiheadAttention, nn.Embedding)
"""Layers whose output channels do not depend on their input channels (except depthwise convolutions)."""


def upstream(
    starts: Iterable[Any],
    goes_on: Callable[[Any], bool] = lambda _: True,
    inputs: Callable[[Any], Iterable[Any]] = operator.attrgetter("inputs"),
) -> Iterator[Any]:
    """These nodes and all before them, each once, stopping at nodes where `goes_on` is false."""
    waiting, seen = list(starts), set()
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            yield node
            waiting.extend(inputs(node) if goes_on(node) else ())


class Graph(tp.DependencyGraph):  # type: ignore[misc]
    """torch-pruning's graph; where it cannot number the channels, the order of layers is known all the same.

    Attributes:
        failure: why channels cannot be followed; None: they can.
    """

    failure: str | None = None
    module2node: dict[Any, Any]


def build_graph(model: nn.Module, example_inputs: tuple[Any, ...]) -> tuple[Graph, set[Any]]:
    """The graph of a model, and the operations that produce its outputs.

    Raises:
        CompressionError: the model cannot be traced with the example inputs.
    """
    roots: set[Any] = set()

    def outputs(answer: Any) -> list[torch.Tensor]:
        differentiable = [tensor for tensor in flatten_tensors(answer) if tensor.grad_fn is not None]
        roots.update(tensor.grad_fn for tensor in differentiable)
        return differentiable

    graph = Graph()
    kinds = {type(module) for module in model.modules() if isinstance(module, TransposedLinear)}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph.build_dependency(
                model,
                to_device(example_inputs, device_of(model)),
                forward_fn=lambda traced, inputs: traced(*inputs),
                output_transform=outputs,
                customized_pruners=dict.fromkeys(kinds, TRANSPOSED_LINEAR),
                verbose=False,
            )
    except Exception as error:
        if not hasattr(graph, "module2node"):
            raise CompressionError(f"the model cannot be traced with the example inputs: {error}") from error
        graph.failure = f"{type(error).__name__}: {error}"
    if not roots:
        raise CompressionError("the model cannot be traced: none of its outputs depends on a parameter")
    for node in graph.module2node.values():
        _describe_flattening(node)
    return graph, roots


def uncalled_layers(model: nn.Module, graph: Any, roots: Iterable[Any]) -> list[str]:
    """Names of the layers whose weights are used without calling them, so that they are not in the graph."""
    missing = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, FILTER_TYPES) and layer not in graph.module2node
    }
    if not missing:
        return []
    operations = upstream(roots, inputs=lambda node: [before for before, _ in node.next_functions if before])
    used = {id(getattr(operation, "variable", None)) for operation in operations}
    return [name for name, layer in missing.items() if any(id(each) in used for each in layer.parameters())]


def _describe_flattening(node: Any) -> None:
    """torch-pruning traces a flattening of two spatial dimensions; present one and three as two."""
    sizes: Any = getattr(node.grad_fn, "_saved_self_sizes", ())
    if type(node.module).__name__ != "_ReshapeOp" or len(sizes) not in (3, 5):
        return
    if len(sizes) == 5 or _comes_from_conv1d(node):
        flat = (sizes[0], sizes[1], math.prod(sizes[2:]), 1)
        node.grad_fn = SimpleNamespace(_saved_self_sizes=flat)


def _comes_from_conv1d(node: Any) -> bool:
    """Whether three dimensions are (batch, channels, length), not (batch, length, features)."""
    before = upstream(node.inputs, lambda near: not isinstance(near.module, SOURCES))
    return any(isinstance(near.module, nn.Conv1d | nn.ConvTranspose1d) for near in before)
