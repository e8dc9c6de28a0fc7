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
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from autocompress.compression.layers import RECURRENT_TYPES, TransposedLinear
from autocompress.compression.model_state import copy_model
from autocompress.compression.pruning.groups import TRANSPOSED_LINEAR
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
        made.append(
            [weight.view(-1, layer.hidden_size, weight.shape[1]).transpose(0, 1).flatten(1) for weight in weights]
        )
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
    return torch.stack([functional.pad(each, (0, longest - each.shape[1])) for each in rows])


def linear_of(weight: torch.Tensor) -> nn.Linear:
    """A linear layer with this weight and without bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach())
    return layer


class RecurrentSubstitute(nn.Module):
    """Takes the place of a recurrent layer in a copy of a model; it has the same public attributes."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        vars(self).update({key: value for key, value in vars(layer).items() if not key.startswith("_")})

    def flatten_parameters(self) -> None:
        """Nothing to do."""


def module_pruner(module: nn.Module) -> Any:
    """What removes channels of a module."""
    if isinstance(module, TransposedLinear):
        return TRANSPOSED_LINEAR
    return PRUNER if isinstance(module, RECURRENT_TYPES) else tp.DependencyGraph().get_pruner_of_module(module)


def weighed_layers(module: nn.Module, prune: Callable[..., Any]) -> list[tuple[nn.Module, Callable[..., Any]]]:
    """Layers whose weights torch-pruning's importances weigh for a place, each with the function of the place.

    For a recurrent layer linear layers with all weights that make and that read each channel.
    """
    if isinstance(module, TransposedLinear):
        outputs = prune.__name__ == "prune_out_channels"
        linear = linear_of(module.weight.detach().T)
        return [(linear, tp.prune_linear_out_channels if outputs else tp.prune_linear_in_channels)]
    if not isinstance(module, RECURRENT_TYPES):
        return [(module, prune)]
    if prune == PRUNER.prune_in_channels:
        return [(linear_of(input_columns(module).T), tp.prune_linear_in_channels)]
    made, reading = unit_rows(module).flatten(0, 1), unit_columns(module).flatten(0, 1).T
    return [(linear_of(made), tp.prune_linear_out_channels), (linear_of(reading), tp.prune_linear_in_channels)]


def scored_parts(layer: nn.Module) -> list[nn.Module]:
    """Layers with the filters or hidden units of a layer, in order; a unit has the weights of all gates."""
    return [linear_of(rows) for rows in unit_rows(layer)] if isinstance(layer, RECURRENT_TYPES) else [layer]


_State = tuple[torch.Tensor, ...]
"""Hidden state, (cells, batch, features), and of an LSTM the cell state."""


class UnitTap(nn.Linear):
    """Is called with the hidden units of a cell, and returns them; has all weights of their layer that read them.

    Where gradients are recorded it is called once instead, with a factor of 1 by which everything that reads the units
    scales them, (samples, units): its gradient is the first-order effect of each unit over all steps.
    """

    def __init__(self, columns: torch.Tensor) -> None:
        super().__init__(columns.shape[0], columns.shape[1], bias=False, device="meta")
        self.weight = nn.Parameter(columns.T, requires_grad=False)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The input."""
        return input


class UnrolledLayer(RecurrentSubstitute):
    """Computes what a recurrent layer does in eval mode.

    Attributes:
        layer: whose parameters are used.
        taps: of each cell.
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__(layer)
        self.layer = layer
        self.taps = nn.ModuleList(map(UnitTap, unit_columns(layer)))

    def forward(self, input: torch.Tensor | PackedSequence, hx: Any = None) -> Any:
        """As the layer's."""
        x, sizes, batched = self._steps(input)
        order = input.sorted_indices if isinstance(input, PackedSequence) else None
        states = self._initial(hx, x, order, batched=batched)
        directions, ends = 1 + self.layer.bidirectional, list[_State]()
        for first in range(0, len(self.taps), directions):
            made = []
            for cell in range(first, first + directions):
                values, end = self._run(cell, x, sizes, tuple(state[cell] for state in states))
                made.append(values)
                ends.append(end)
            x = torch.cat(made, -1)
        last = [torch.stack(values) for values in zip(*ends, strict=True)]
        if isinstance(input, PackedSequence):
            data = torch.cat([x[step, :size] for step, size in enumerate(sizes)])
            back = input.unsorted_indices
            last = last if back is None else [state.index_select(1, back) for state in last]
            return input._replace(data=data), self._joined(last)
        x = x if not batched else x.transpose(0, 1) if self.layer.batch_first else x
        return (x, self._joined(last)) if batched else (x[:, 0], self._joined([state[:, 0] for state in last]))

    def _joined(self, states: Sequence[torch.Tensor]) -> Any:
        return tuple(states) if isinstance(self.layer, nn.LSTM) else states[0]

    def _steps(self, input: torch.Tensor | PackedSequence) -> tuple[torch.Tensor, list[int], bool]:
        """The inputs as (steps, batch, features), the longest first; sequences in each step; whether batched."""
        if isinstance(input, PackedSequence):
            padded, _ = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
            return padded, input.batch_sizes.tolist(), True
        batched = input.dim() == 3
        x = input[:, None] if not batched else input.transpose(0, 1) if self.layer.batch_first else input
        return x, [x.shape[1]] * x.shape[0], batched

    def _initial(self, hx: Any, x: torch.Tensor, order: torch.Tensor | None, *, batched: bool) -> _State:
        if hx is None:
            widths = (self.layer.proj_size or self.layer.hidden_size, self.layer.hidden_size)
            count = 1 + isinstance(self.layer, nn.LSTM)
            return tuple(x.new_zeros(len(self.taps), x.shape[1], width) for width in widths[:count])
        states = hx if isinstance(hx, tuple | list) else (hx,)
        states = states if batched else [state[:, None] for state in states]
        return tuple(state if order is None else state.index_select(1, order) for state in states)

    def _run(self, cell: int, x: torch.Tensor, sizes: Sequence[int], state: _State) -> tuple[torch.Tensor, _State]:
        """Outputs of a cell at each step, zero where a sequence is over, and its last state."""
        layer, suffix = self.layer, suffixes(self.layer)[cell]
        bias = [parameter(layer, kind, suffix) if layer.bias else None for kind in ("bias_ih", "bias_hh")]
        inputs = functional.linear(x, parameter(layer, "weight_ih", suffix), bias[0])
        factor = x.new_ones(x.shape[1], layer.hidden_size)
        if torch.is_grad_enabled():
            factor = self.taps[cell](factor.requires_grad_())
        outputs: list[torch.Tensor] = [x] * len(sizes)
        backward = layer.bidirectional and cell % 2
        for step in reversed(range(len(sizes))) if backward else range(len(sizes)):
            size = sizes[step]
            before = tuple(each[:size] for each in state)
            read = before[0] if layer.proj_size else before[0] * factor[:size]
            recurrent = functional.linear(read, parameter(layer, "weight_hh", suffix), bias[1])
            after = _step(layer, inputs[step, :size], recurrent, before)
            if not torch.is_grad_enabled():
                self.taps[cell](after[0])
            output = after[0] * factor[:size]
            if layer.proj_size:
                output = functional.linear(output, parameter(layer, "weight_hr", suffix))
                after = (output, *after[1:])
            outputs[step] = functional.pad(output, (0, 0, 0, x.shape[1] - size))
            state = tuple(torch.cat([new, old[size:]]) for new, old in zip(after, state, strict=True))
        ended = state if layer.proj_size else (state[0] * factor, *state[1:])
        return torch.stack(outputs), ended


def _step(layer: nn.RNNBase, inputs: torch.Tensor, recurrent: torch.Tensor, state: _State) -> _State:
    """Hidden units after a step, and of an LSTM its cell state."""
    if isinstance(layer, nn.LSTM):
        entry, keep, new, out = (inputs + recurrent).chunk(4, -1)
        cell = torch.sigmoid(keep) * state[1] + torch.sigmoid(entry) * torch.tanh(new)
        return torch.sigmoid(out) * torch.tanh(cell), cell
    if isinstance(layer, nn.GRU):
        (reset, update, new), (reset_h, update_h, new_h) = inputs.chunk(3, -1), recurrent.chunk(3, -1)
        keep = torch.sigmoid(update + update_h)
        return ((1 - keep) * torch.tanh(new + torch.sigmoid(reset + reset_h) * new_h) + keep * state[0],)
    made = inputs + recurrent
    return (torch.relu(made) if layer.mode == "RNN_RELU" else torch.tanh(made),)


def unrolled(model: nn.Module) -> nn.Module:
    """The model, or, where it has recurrent layers, a copy in which they are computed step by step."""
    if not any(isinstance(module, RECURRENT_TYPES) for module in model.modules()):
        return model
    copied = copy_model(model)
    replaced: dict[nn.Module, UnrolledLayer] = {}
    for parent in list(copied.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, RECURRENT_TYPES):
                replaced[child] = replaced.get(child) or UnrolledLayer(child)
                parent._modules[name] = replaced[child]
    return copied


def unit_sources(model: nn.Module, name: str) -> list[str]:
    """The modules whose outputs are a layer's: of one that is computed step by step the taps of its cells."""
    layer = model.get_submodule(name)
    return [f"{name}.taps.{cell}" for cell in range(len(layer.taps))] if isinstance(layer, UnrolledLayer) else [name]
