"""Hidden units of recurrent layers and their removal.

All layers and directions of one `nn.LSTM`, `nn.GRU` or `nn.RNN` have one hidden size, and so lose equally many units; a
*cell* here is one layer in one direction, and each cell loses its own least important ones. Unit u of cell k is channel
k * hidden_size + u. With `proj_size` hidden units go and the projected features stay.

A unit whose rows of all gates are zero stays zero from a zero initial state (tanh and relu of 0 are 0; the gates only
scale), so that removing it equals zeros in these rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
import torch_pruning as tp
from torch import nn

from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.errors import CompressionError


def suffixes(layer: nn.RNNBase) -> list[str]:
    """The ends of the parameters' names of each cell, in the order of their hidden units."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    return [f"l{level}{end}" for level in range(layer.num_layers) for end in directions]


def parameter(layer: nn.RNNBase, kind: str, suffix: str) -> torch.Tensor:
    """A cell's parameter, such as `weight_ih`."""
    return cast(torch.Tensor, getattr(layer, f"{kind}_{suffix}"))


class RecurrentPruner:
    """Removes hidden units and inputs, in the form of torch-pruning's pruners.

    Attributes:
        pruning_dim: not used.
    """

    pruning_dim = -1

    def prune_out_channels(self, layer: nn.RNNBase, channels: Sequence[int]) -> nn.RNNBase:
        """Remove hidden units, equally many of each cell, with what reads them in this layer."""
        left = _remaining_units(layer, channels)
        if len(set(map(len, left))) > 1:
            raise CompressionError("all layers and directions of a recurrent layer must lose equally many hidden units")
        directions, gate_rows = 1 + layer.bidirectional, [_gate_rows(layer, units) for units in left]
        for cell, suffix in enumerate(suffixes(layer)):
            level = cell // directions
            below = [] if level == 0 or layer.proj_size else left[(level - 1) * directions : level * directions]
            inputs = [part * layer.hidden_size + unit for part, units in enumerate(below) for unit in units]
            own, rows = left[cell], gate_rows[cell]
            _select(layer, f"weight_ih_{suffix}", rows, inputs or None)
            _select(layer, f"weight_hh_{suffix}", rows, None if layer.proj_size else own)
            for kind in ("bias_ih", "bias_hh") if layer.bias else ():
                _select(layer, f"{kind}_{suffix}", rows)
            if layer.proj_size:
                _select(layer, f"weight_hr_{suffix}", None, own)
        layer.hidden_size = len(left[0])
        layer.flatten_parameters()
        return layer

    def prune_in_channels(self, layer: nn.RNNBase, channels: Sequence[int]) -> nn.RNNBase:
        """Remove input features."""
        gone = set(channels)
        left = [feature for feature in range(layer.input_size) if feature not in gone]
        for suffix in suffixes(layer)[: 1 + layer.bidirectional]:
            _select(layer, f"weight_ih_{suffix}", None, left)
        layer.input_size = len(left)
        layer.flatten_parameters()
        return layer

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Hidden units of all cells."""
        return len(suffixes(layer)) * layer.hidden_size

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Input features."""
        return layer.input_size


PRUNER = RecurrentPruner()


def _remaining_units(layer: nn.RNNBase, channels: Sequence[int]) -> list[list[int]]:
    gone, size = set(channels), layer.hidden_size
    return [[unit for unit in range(size) if cell * size + unit not in gone] for cell, _ in enumerate(suffixes(layer))]


def _gate_rows(layer: nn.RNNBase, units: Iterable[int]) -> list[int]:
    """The rows of these units in the weights of a cell, which holds its gates one below the other."""
    gates = len(cast(torch.Tensor, layer.weight_ih_l0)) // layer.hidden_size
    own = list(units)
    return [gate * layer.hidden_size + unit for gate in range(gates) for unit in own]


@torch.no_grad()
def _select(layer: nn.RNNBase, name: str, rows: list[int] | None, columns: list[int] | None = None) -> None:
    """Keep these rows and columns of a parameter; None: all."""
    old = cast(nn.Parameter, getattr(layer, name))
    new: torch.Tensor = old.detach()
    for dimension, chosen in enumerate((rows, columns)):
        if chosen is not None:
            new = new.index_select(dimension, torch.tensor(chosen, device=new.device))
    setattr(layer, name, nn.Parameter(new, old.requires_grad))


def zeroed_units(layer: nn.RNNBase, channels: Sequence[int]) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a layer in which these hidden units are zero, by name."""
    for cell, suffix in enumerate(suffixes(layer)):
        size = layer.hidden_size
        units = [channel - cell * size for channel in channels if cell * size <= channel < (cell + 1) * size]
        for kind in ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ())):
            old = parameter(layer, kind, suffix)
            rows = torch.tensor(_gate_rows(layer, units), dtype=torch.long, device=old.device)
            yield f"{kind}_{suffix}", nn.Parameter(old.detach().index_fill(0, rows, 0), old.requires_grad)


def output_channels(layer: nn.RNNBase, channels: Iterable[int]) -> list[int]:
    """Where these hidden units are in the layer's output sequence; those below the last layer are not."""
    if layer.proj_size:
        return []
    first = (layer.num_layers - 1) * (1 + layer.bidirectional) * layer.hidden_size
    return [channel - first for channel in channels if channel >= first]


def unit_rows(layer: nn.RNNBase) -> torch.Tensor:
    """All weights that make each hidden unit, of all its gates: (cells, units, weights), filled with zeros."""
    made = []
    for suffix in suffixes(layer):
        weights = (parameter(layer, kind, suffix).detach() for kind in ("weight_ih", "weight_hh"))
        made.append([weight.unflatten(0, (-1, layer.hidden_size)).transpose(0, 1).flatten(1) for weight in weights])
    return _stacked([torch.cat(parts, 1) for parts in made])


def unit_columns(layer: nn.RNNBase) -> torch.Tensor:
    """All weights of the layer that read each hidden unit: (cells, units, weights), filled with zeros."""
    directions, size, names = 1 + layer.bidirectional, layer.hidden_size, suffixes(layer)
    if layer.proj_size:
        return _stacked([parameter(layer, "weight_hr", suffix).detach().T for suffix in names])
    found = []
    for cell, suffix in enumerate(names):
        level, part = divmod(cell, directions)
        above = names[(level + 1) * directions : (level + 2) * directions]
        reads = [parameter(layer, "weight_ih", each)[:, part * size : (part + 1) * size] for each in above]
        found.append(torch.cat([parameter(layer, "weight_hh", suffix), *reads]).detach().T)
    return _stacked(found)


def input_columns(layer: nn.RNNBase) -> torch.Tensor:
    """All weights that read each input feature: (features, weights)."""
    first = suffixes(layer)[: 1 + layer.bidirectional]
    return torch.cat([parameter(layer, "weight_ih", suffix).detach() for suffix in first]).T


def _stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    longest = max(each.shape[1] for each in rows)
    return torch.stack([nn.functional.pad(each, (0, longest - each.shape[1])) for each in rows])


def linear_of(weight: torch.Tensor) -> nn.Linear:
    """A linear layer with this weight and without bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach())
    return layer


def module_pruner(module: nn.Module) -> Any:
    """What removes channels of a module."""
    return PRUNER if isinstance(module, RECURRENT_TYPES) else tp.DependencyGraph().get_pruner_of_module(module)


def weighed_layers(module: nn.Module, prune: Callable[..., Any]) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """Layers whose weights torch-pruning's importances weigh for a place, each with the function of the place.

    For a recurrent layer linear layers with all weights that make and that read each channel.
    """
    if not isinstance(module, RECURRENT_TYPES):
        return [(module, prune)]
    if prune == PRUNER.prune_in_channels:
        return [(linear_of(input_columns(module).T), tp.prune_linear_in_channels)]
    made, reading = unit_rows(module).flatten(0, 1), unit_columns(module).flatten(0, 1).T
    return [(linear_of(made), tp.prune_linear_out_channels), (linear_of(reading), tp.prune_linear_in_channels)]


def scored_parts(layer: nn.Module) -> list[nn.Module]:
    """Layers with the filters or hidden units of a layer, in order; a unit has the weights of all gates."""
    return [linear_of(rows) for rows in unit_rows(layer)] if isinstance(layer, RECURRENT_TYPES) else [layer]
