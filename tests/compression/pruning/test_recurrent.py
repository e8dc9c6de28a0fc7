"""Hidden units of recurrent layers: removed ones equal zeros; layers computed step by step equal PyTorch's."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.compression.model_state import flatten_tensors
from autocompress.compression.pruning.recurrent import (
    PRUNER,
    input_columns,
    output_channels,
    parameter,
    suffixes,
    unit_columns,
    unit_rows,
    unrolled,
    zeroed_units,
)
from autocompress.errors import CompressionError
from autocompress.formats.structure import apply_structure, load_weights, structure_of

KINDS = {
    **{kind.__name__: kind for kind in RECURRENT_TYPES},
    "RNN of ReLU": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
    "LSTM with projections": lambda *sizes, **options: nn.LSTM(*sizes, proj_size=2, **options),
}
FORMS = list(itertools.product((1, 2), (False, True)))


def make(kind, layers=2, bidirectional=True, **options):
    torch.manual_seed(0)
    return KINDS[kind](3, 6, num_layers=layers, bidirectional=bidirectional, **options).eval()


def some_units(layer):
    """Two of six units of each cell, others in each."""
    return [6 * cell + (unit + cell) % 6 for cell in range(len(suffixes(layer))) for unit in (1, 4)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_unit_equals_one_whose_weights_are_zero(kind, layers, bidirectional, bias):
    layer, x = make(kind, layers, bidirectional, bias=bias), torch.randn(7, 2, 3)
    zeroed, gone = copy.deepcopy(layer), some_units(layer)
    for name, value in list(zeroed_units(layer, gone)):
        setattr(zeroed, name, value)
    smaller = PRUNER.prune_out_channels(copy.deepcopy(layer), gone)
    assert smaller.hidden_size == 4
    (sequence, wide), (narrow_sequence, narrow) = zeroed(x), smaller(x)
    lost = output_channels(layer, gone)
    left = [channel for channel in range(sequence.shape[-1]) if channel not in lost]
    assert torch.allclose(sequence[..., left], narrow_sequence, atol=1e-6)
    assert not lost or sequence[..., lost].abs().max() == 0
    states = zip(*(each if isinstance(each, tuple) else (each,) for each in (wide, narrow)), strict=True)
    for before, after in states:
        for cell in range(len(before)):
            units = [unit for unit in range(6) if 6 * cell + unit not in gone]
            kept = before[cell] if after.shape == before.shape else before[cell][:, units]
            assert torch.allclose(kept, after[cell], atol=1e-6)


def test_cells_must_lose_equally_many_units():
    with pytest.raises(CompressionError, match="must lose equally many hidden units"):
        PRUNER.prune_out_channels(make("GRU"), [0, 1, 6])


@pytest.mark.parametrize("kind", KINDS)
def test_removed_inputs_equal_zeros(kind):
    layer, x = make(kind), torch.randn(7, 2, 3)
    smaller = PRUNER.prune_in_channels(copy.deepcopy(layer), [1])
    x[..., 1] = 0
    assert smaller.input_size == 2
    assert torch.allclose(layer(x)[0], smaller(x[..., [0, 2]])[0], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pruned_layers_train_and_are_saved_and_loaded(kind):
    model, original, x = nn.Sequential(make(kind)), nn.Sequential(make(kind)), torch.randn(7, 2, 3)
    PRUNER.prune_in_channels(PRUNER.prune_out_channels(model[0], some_units(model[0])), [1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model(x[..., [0, 2]])[0].square().sum().backward()
    optimizer.step()
    apply_structure(original, structure_of(model, original))
    load_weights(original, model.state_dict())
    assert (original[0].input_size, original[0].hidden_size) == (2, 4)
    assert torch.equal(original(x[..., [0, 2]])[0], model(x[..., [0, 2]])[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_that_make_and_read_a_unit(kind):
    """Where every weight has the number of the unit that it makes, or that it reads."""
    layer = make(kind)
    numbers = torch.arange(6.0)
    with torch.no_grad():
        for suffix in suffixes(layer):
            for name in ("weight_ih", "weight_hh"):
                weight = parameter(layer, name, suffix)
                weight.copy_(numbers.repeat(len(weight) // 6)[:, None].expand_as(weight) + 1)
    rows = unit_rows(layer)
    assert rows.shape[:2] == (4, 6)
    assert all(set(rows[cell, unit].tolist()) <= {0.0, unit + 1.0} for cell in range(4) for unit in range(6))
    gates = len(layer.weight_ih_l0) // 6
    made = dict.fromkeys(suffixes(layer), 2 if layer.proj_size else 6)
    inputs = [parameter(layer, "weight_ih", suffix).shape[1] for suffix in suffixes(layer)]
    assert [int((row != 0).sum()) for row in rows[:, 0]] == [
        gates * (own + width) for own, width in zip(made.values(), inputs, strict=True)
    ]
    with torch.no_grad():
        for suffix in suffixes(layer):
            if layer.proj_size:
                parameter(layer, "weight_hr", suffix).copy_(numbers.expand(2, 6) + 1)
                continue
            parameter(layer, "weight_hh", suffix).copy_(numbers.expand(6 * gates, 6) + 1)
            if suffix.startswith("l1"):
                parameter(layer, "weight_ih", suffix).copy_(numbers.repeat(2).expand(6 * gates, 12) + 1)
    columns = unit_columns(layer)
    assert all(set(columns[cell, unit].tolist()) <= {0.0, unit + 1.0} for cell in range(4) for unit in range(6))
    below, last = (2, 2) if layer.proj_size else (6 * gates * 3, 6 * gates)
    assert [int((row != 0).sum()) for row in columns[:, 0]] == [below, below, last, last]
    assert torch.equal(input_columns(layer)[1], torch.cat([layer.weight_ih_l0[:, 1], layer.weight_ih_l0_reverse[:, 1]]))


def sequences(form, batch_first):
    if form == "one":
        return torch.randn(6, 3)
    x = torch.randn(4, 6, 3) if batch_first else torch.randn(6, 4, 3)
    lengths = [3, 6, 1, 2]
    return pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False) if form == "packed" else x


@pytest.mark.parametrize("form", ["padded", "packed", "one"])
@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_layers_compute_the_same(kind, layers, bidirectional, form):
    for batch_first, given, trains in itertools.product((True, False), repeat=3):
        layer = make(kind, layers, bidirectional, batch_first=batch_first)
        model, x, cells = nn.ModuleList([layer]), sequences(form, batch_first), layers * (1 + bidirectional)
        shape = (cells,) if form == "one" else (cells, 4)
        states = torch.randn(*shape, layer.proj_size or 6), torch.randn(*shape, 6)
        hx = None if not given else states if isinstance(layer, nn.LSTM) else states[0]
        with torch.set_grad_enabled(trains):
            expected, found = layer(x, hx), unrolled(model)[0](x, hx)
        for before, after in zip(flatten_tensors(expected), flatten_tensors(found), strict=True):
            assert torch.allclose(before, after, atol=1e-6)


def test_models_without_recurrent_layers_are_not_copied():
    model = nn.Sequential(nn.Linear(2, 2))
    assert unrolled(model) is model
