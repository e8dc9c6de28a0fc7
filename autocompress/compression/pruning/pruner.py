"""Base classes of pruning algorithms; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from autocompress.errors import ConfigError
from autocompress.registry import Algorithm, Argument, algorithm

if TYPE_CHECKING:
    import torch
    from torch import nn

    from autocompress.compression.base import CompressionRequest, Compressor
    from autocompress.compression.pruning.graph import ChannelGraph
    from autocompress.compression.pruning.groups import Coupling

SCOPES = (Argument("ignored_scopes", ()), Argument("target_scopes", ()), Argument("validate_scopes", True))
"""Options that limit the parts of a model to compress."""

TRAINER = ("sparsifying_trainer", "post_compress_finetuning_trainer")
NEEDS_TRAINING = (TRAINER, ("optimizer_factory",), ("criterion",))
"""Hooks of an algorithm that trains."""
NEEDS_INPUTS = (("calibration_data", *TRAINER),)
"""Hooks of an algorithm that needs data."""

EPOCHS = Argument("training_epochs", 1)
BATCHES = Argument("training_batches", 20, minimum=1)
ACTIVATION = Argument("activation", "auto", options=("auto", "relu", "relu6", "gelu"))
"""`auto`: the non-linearity in the model."""

_MODES = (("normal", "uniform"), ("global", "global"), ("dependency_aware", "uniform"))
"""NNI's names of allocations. Layers that share channels always lose the same ones, in any of them."""
PROBED = ("sensitivity", "least_damage")
"""Allocations that need the sensitivity of each layer."""
ALLOCATION = Argument("allocation", "uniform", options=("uniform", "global", *PROBED), formerly=("mode", _MODES))
FLOOR = Argument("minimal_kept", 0.05, below=1)
NOT_RANKING = frozenset(
    {
        "allocation",
        "minimal_kept",
        "rate_of",
        "round_to",
        "all_weights",
        "tracing_limit",
        *(each.name for each in SCOPES),
    }
)
"""Options that do not decide which filters of a layer are the least important."""


Importance: TypeAlias = "Callable[[Coupling], torch.Tensor | None]"
"""From a coupling to one score per channel of its root layer; None: unknown."""


@dataclass(frozen=True)
class PruningContext:
    """Input of a filter ranking.

    Attributes:
        model: not to be changed.
        request: with the algorithm's arguments and the user's module.
        behind: layer -> name of the BatchNorm that is the only consumer of its output, or the layer's own name.
        couplings: sets of filters that can only be removed together, to be ranked.
    """

    model: nn.Module
    request: CompressionRequest
    behind: Mapping[str, str]
    couplings: Sequence[Coupling]


class Pruner(Algorithm):
    """An algorithm with a sparsity that a search can vary."""

    kind = "pruner"

    def default_entry(self) -> dict[str, Any]:
        """The default search space: all layers at rates from 0 to 0.95."""
        return {"sparsity": {"_type": "uniform", "_value": [0.0, 0.95]}, "op_types": ["default"]}

    def allocation(self, request: CompressionRequest) -> str:
        """How a rate of the whole model becomes rates of its layers, one of the options of `ALLOCATION`."""
        return str(request.argument("allocation"))


class FilterPruner(Pruner):
    """Removes the least important filters, physically. A subclass has a name and a `score` or an `importance`.

    Attributes:
        estimates_loss: whether scores estimate the loss, and so can be compared between layers; else they are divided
            by the mean of their layer.
    """

    WIDTHS = (
        *SCOPES,
        Argument("rate_of", "filters", options=("filters", "parameters", "macs")),
        Argument("round_to", 1, minimum=1),
        Argument("prune_residual", False),
        Argument("tracing_limit", 60.0, minimum=1),
    )
    arguments: ClassVar[tuple[Argument, ...]] = (*WIDTHS, ALLOCATION, FLOOR)
    estimates_loss: ClassVar[bool] = False

    def needs_with(self, arguments: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
        """Where the sensitivity of layers is needed, inputs too, to compare outputs on."""
        compares = arguments.get(ALLOCATION.name) in PROBED
        return tuple(dict.fromkeys((*self.needs, *(NEEDS_INPUTS if compares else ()))))

    def compressor(self) -> Compressor:
        """The compressor that removes filters."""
        from autocompress.compression.pruning.filters import FilterCompressor

        return FilterCompressor()

    def translate(self, model: nn.Module, request: CompressionRequest) -> CompressionRequest:
        """The request with rules for layers that have filters; by default as it is."""
        return request

    def check(self, model: nn.Module, request: CompressionRequest) -> None:
        """Check that the algorithm can rank a model, which is not changed.

        Raises:
            CompressionError: it cannot.
        """

    def prepare(self, model: nn.Module, request: CompressionRequest) -> int:
        """Train or change the model in place before it is ranked.

        Returns:
            the number of epochs.

        Raises:
            ModuleError: the user's module lacks a hook that it needs.
        """
        return 0

    def score(self, layer: nn.Module) -> torch.Tensor:
        """One score for each filter of a layer, higher is more important."""
        raise NotImplementedError(f"{type(self).__name__} must have score(layer) or importance(...)")

    def importance(self, context: PruningContext) -> Importance:
        """The function that scores coupled filters; by default the mean `score` of their layers.

        Raises:
            CompressionError: a coupling cannot be scored with the data.
            ModuleError: the user's module lacks a hook that the algorithm needs.
        """
        from autocompress.compression.layers import PRUNED_TYPES, supported_layers
        from autocompress.compression.pruning.importance import LayerImportance

        return LayerImportance(self.score, supported_layers(context.model, PRUNED_TYPES))

    def spared(self, request: CompressionRequest, graph: ChannelGraph, rates: Mapping[str, float]) -> dict[str, str]:
        """Layers with a rate that may not lose filters by the algorithm's options, and why; by default none."""
        return {}


class WeightPruner(Pruner):
    """Zeroes the least important weights; layers keep their sizes. A subclass has a name, and may have a `score`."""

    arguments: ClassVar[tuple[Argument, ...]] = (
        *SCOPES,
        Argument("allocation", "uniform", options=("uniform", "global"), formerly=("mode", _MODES)),
    )

    def compressor(self) -> Compressor:
        """The compressor that zeroes weights."""
        from autocompress.compression.pruning.sparsity import WeightCompressor

        return WeightCompressor()

    def score(self, weight: torch.Tensor, request: CompressionRequest) -> torch.Tensor:
        """Weights rescaled so that those of all layers can be ranked by magnitude together."""
        return weight


def pruner_of(request: CompressionRequest) -> FilterPruner:
    """The filter pruner that a request names; ConfigError if it is not one."""
    known = algorithm(request.algorithm)
    if not isinstance(known, FilterPruner):
        raise ConfigError(f"the algorithm must be a filter pruner; {request.algorithm!r} is none")
    return known
