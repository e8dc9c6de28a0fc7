"""The one place where compression algorithms are registered by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from autocompress.errors import ConfigError, unknown_name

Kind = Literal["pruner", "quantizer"]


@dataclass(frozen=True)
class Algorithm:
    """A compression algorithm that a search space can name.

    Attributes:
        name: the name users write, as in NNI's auto-compress.
        kind: a pruner has a sparsity, and so an adaptive compression rate; a quantizer has none.
        compressor: `package.module:Class` of its compressor; None where this version does not have it.
        parameters: names of the algorithm arguments it takes (`parameter::<name>` in a search space).
        needs: hooks of the user's module that it cannot do without.
    """

    name: str
    kind: Kind
    compressor: str | None = None
    parameters: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


_FILTERS = "autocompress.compress.filters:FilterPruner"
_TRAINING = ("sparsifying_trainer", "optimizer_factory", "criterion")

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("level", "pruner", "autocompress.compress.sparsity:LevelPruner"),
        Algorithm("l1", "pruner", _FILTERS),
        Algorithm("l2", "pruner", _FILTERS),
        Algorithm("fpgm", "pruner", _FILTERS),
        Algorithm("slim", "pruner", needs=_TRAINING),
        Algorithm("taylorfo", "pruner", needs=_TRAINING),
        Algorithm("apoz", "pruner", needs=_TRAINING),
        Algorithm("mean_activation", "pruner", needs=_TRAINING),
        Algorithm("naive", "quantizer"),
        Algorithm("qat", "quantizer", needs=_TRAINING),
        Algorithm("dorefa", "quantizer", needs=_TRAINING),
        Algorithm("bnn", "quantizer", needs=_TRAINING),
    )
}


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises:
        ConfigError: no algorithm has that name.
    """
    if name not in ALGORITHMS:
        raise ConfigError(unknown_name("algorithm", name, ALGORITHMS))
    return ALGORITHMS[name]


def require_available(names: Iterable[str]) -> None:
    """Check that every named algorithm can be run by this version.

    Raises:
        ConfigError: a name is unknown, or known from NNI but not available in this version.
    """
    available = sorted(name for name, known in ALGORITHMS.items() if known.compressor is not None)
    for name in names:
        if algorithm(name).compressor is None:
            raise ConfigError(
                f"algorithm {name!r} is not available in this version (available: {', '.join(available)})"
            )
