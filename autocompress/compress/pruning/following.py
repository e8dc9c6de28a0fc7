"""A bound on the work of torch-pruning's dependency graph, which follows some structures for hours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from autocompress.compress.layers import FILTER_TYPES
from autocompress.errors import CompressionError

_MOST_STEPS = 2_000_000
"""Channels at places, in all: seconds. The largest of torchvision's classifiers takes 400,000 for a layer."""

_SPREAD = 4
"""How often the widest layer's channels may come at a place."""


class Followed:
    """Bounds what is followed from one layer, by counts rather than by time, so that it ends alike on any machine.

    Channels multiply where the output of a layer becomes the weights of another operation, or is multiplied by
    channels, and is then flattened: each time round a cycle there are more.

    Args:
        graph: torch-pruning's, built.
    """

    def __init__(self, graph: Any) -> None:
        self._graph, self._steps, self._visits = graph, 0, 0
        self._reached: dict[Any, None] = {}
        nodes = graph.module2node.values()
        sizes = [getattr(node.module, name, 0) for node in nodes for name in ("in_features", "out_features")]
        widths = [getattr(node.module, name, 0) for node in nodes for name in ("in_channels", "out_channels")]
        self._most = _SPREAD * max((*sizes, *widths), default=0)
        for node in nodes:
            for dependency in node.dependencies:
                dependency.index_mapping = _Counted(dependency.index_mapping, self, dependency)

    def start(self) -> None:
        """Follow another layer."""
        self._steps = self._visits = 0
        self._reached.clear()

    @property
    def layers(self) -> list[Any]:
        """Those that would lose filters, as far as has been followed."""
        return list(self._reached)

    def count(self, dependency: Any, channels: int) -> None:
        """So many channels are about to be followed along a dependency.

        Raises:
            CompressionError: they are too many.
        """
        module = dependency.target.module
        if isinstance(module, FILTER_TYPES) and self._graph.is_out_channel_pruning_fn(dependency.handler):
            self._reached[module] = None
        self._visits += 1
        self._steps += channels + self._visits // 8  # it looks through all visits at each
        if channels > self._most or self._steps > _MOST_STEPS:
            raise CompressionError("its channels cannot be followed, as they multiply on their way")


class _Counted(list[Any]):
    """Index mappings of a dependency, which torch-pruning applies one after the other."""

    def __init__(self, mappings: Sequence[Any], followed: Followed, dependency: Any) -> None:
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
