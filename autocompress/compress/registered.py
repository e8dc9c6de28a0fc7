"""Custom layers: modules that are not PyTorch's, whose `weight` may be compressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import nn

from autocompress.algorithms import ALGORITHMS, algorithm
from autocompress.errors import ConfigError

_M = TypeVar("_M", bound=type[nn.Module])
_OF_CONTROLLERS = ("rb_sparsity",)
"""Algorithms that no search space names."""
_REGISTERED: dict[type[nn.Module], frozenset[str]] = {}


def register_module(ignored_algorithms: Sequence[str] = ()) -> Callable[[_M], _M]:
    """Class decorator: the class' parameter `weight` may be compressed as that of a layer of PyTorch's.

    Algorithms on single weights (`level`, `magnitude_sparsity`, the quantizers) then compress it. Filters of such a
    module are never removed, as nobody but its author knows what else depends on them; the layers that share filters
    with it keep theirs.

    Args:
        ignored_algorithms: names of algorithms that leave the modules of this class alone; NNCF's `quantization` stands
            for all quantizers.

    Raises:
        ConfigError: not a class of modules, or an unknown algorithm.
    """
    names = frozenset(known for name in ignored_algorithms for known in _known(name))

    def register(module: _M) -> _M:
        if not isinstance(module, type) or not issubclass(module, nn.Module):
            raise ConfigError(f"register_module must decorate a class of torch.nn.Module; got {module!r}")
        _REGISTERED[module] = names
        return module

    return register


def registered_types(algorithm_name: str | None = None) -> tuple[type[nn.Module], ...]:
    """The registered classes, or those of them that an algorithm may compress."""
    return tuple(module for module, ignored in _REGISTERED.items() if algorithm_name not in ignored)


def _known(name: str) -> list[str]:
    if name == "quantization":
        return [each.name for each in ALGORITHMS.values() if each.kind == "quantizer"]
    return [name] if name in _OF_CONTROLLERS else [algorithm(name).name]
