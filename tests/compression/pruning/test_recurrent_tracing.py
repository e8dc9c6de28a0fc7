"""Hidden units of recurrent layers, removed from whole models with what reads them."""

from __future__ import annotations

import copy
import io
import itertools
import re
from collections.abc import Mapping

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.layers import RECURRENT_TYPES
from autocompress.compression.measure import macs, parameters
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.data_importance import taylor
from autocompress.compression.pruning.filters import FilterCompression, FilterCompressor
from autocompress.compression.pruning.pruner import PruningContext
from autocompress.compression.pruning.recurrent import suffixes, zeroed_units
from autocompress.errors import CompressionError
from autocompress.formats.structure import apply_structure, load_weights, structure_of
from autocompress.layer_selector import LayerRule
from autocompress.nncf import CompressionConfig, create_compressed_model
from autocompress.testing.conformance import check_zeroed, with_distinct_values
from autocompress.testing.zoo import ZooModule

KINDS = {kind.__name__: kind for kind in RECURRENT_TYPES}
HIDDEN = 8


class Speech(nn.Module):
    """A convolution over time, a recurrent layer, and what reads it: its last outputs, its states or attention."""

    def __init__(self, kind="GRU", layers=1, bidirectional=False, reads="outputs", **options) -> None:
        super().__init__()
        self.reads = reads
        self.conv = nn.Conv1d(5, 12, 3)
        self.cells = KINDS[kind](12, HIDDEN, layers, bidirectional=bidirectional, batch_first=True, **options)
        wide = (self.cells.proj_size or HIDDEN) * (1 + bidirectional)
        if reads == "attention and states":
            self.score = nn.Linear(wide, 1)
        if reads == "convolution":
            self.late = nn.Conv1d(wide, wide, 3)
        self.head = nn.Linear(wide, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, states = self.cells(torch.relu(self.conv(x)).transpose(1, 2))
        hidden = states[0] if isinstance(states, tuple) else states
        both = torch.cat((hidden[-2], hidden[-1]), 1) if self.cells.bidirectional else hidden[-1]
        if self.reads == "outputs":
            return self.head(outputs[:, -1])
        if self.reads == "states":
            return self.head(both)
        if self.reads == "attention and states":
            return self.head((torch.softmax(self.score(outputs), 1) * outputs).sum(1) + both)
        return self.head(torch.relu(self.late(outputs.transpose(1, 2))).mean(2))


class Text(nn.Module):
    """A classifier or tagger of packed sequences of tokens."""

    def __init__(self, kind="LSTM", tags=False) -> None:
        super().__init__()
        self.tags = tags
        self.embedding, self.inner = nn.Embedding(50, 10), nn.Linear(10, 12)
        self.cells = KINDS[kind](12, HIDDEN, 2, bidirectional=True, batch_first=True, dropout=0.4)
        self.head = nn.Linear(2 * HIDDEN, 4)

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.inner(self.embedding(tokens)))
        packed = pack_padded_sequence(inner, lengths.cpu(), batch_first=True, enforce_sorted=False)
        outputs, states = self.cells(packed)
        if self.tags:
            return self.head(pad_packed_sequence(outputs, batch_first=True)[0])
        hidden = states[0] if isinstance(states, tuple) else states
        return self.head(torch.cat((hidden[-2], hidden[-1]), 1))


SOUND = (torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0)),)
TOKENS = (torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(0)), torch.tensor([4, 7, 2]))
STEPS = (torch.randn(7, 3, 5, generator=torch.Generator().manual_seed(0)),)


def prune(model, inputs, algorithm="l2", rate=0.5, op_types=("default",), **options) -> FilterCompression:
    request = CompressionRequest(algorithm, (LayerRule(op_types, rate=rate),), inputs, **options)
    return FilterCompressor().compress(model.eval(), request)


def with_dead_units(model: nn.Module, *names: str) -> dict[str, list[int]]:
    """Zero half of the hidden units of each cell, others in each, and make what reads them small; returns them."""
    dead = dict[str, list[int]]()
    with torch.no_grad():
        for name in names:
            layer = model.get_submodule(name)
            size, cells = layer.hidden_size, len(suffixes(layer))
            dead[name] = [
                cell * size + (2 * unit + cell // 2 + cell) % size for cell in range(cells) for unit in range(size // 2)
            ]
            for key, value in list(zeroed_units(layer, dead[name])):
                setattr(layer, key, value)
    return dead


def remaining(before: nn.RNNBase, dead: list[int]) -> Mapping[str, list[int]]:
    size = before.hidden_size
    return {
        suffix: [unit for unit in range(size) if cell * size + unit not in dead]
        for cell, suffix in enumerate(suffixes(before))
    }


def require_dead_units_removed(model: nn.Module, smaller: nn.Module, name: str, dead: list[int]) -> None:
    """The remaining weights are those of the living units, in order."""
    before, after = model.get_submodule(name), smaller.get_submodule(name)
    assert after.hidden_size == before.hidden_size // 2
    for suffix, units in remaining(before, dead).items():
        old, new = (getattr(layer, f"weight_hh_{suffix}") for layer in (before, after))
        rows = old.unflatten(0, (-1, before.hidden_size))[:, units].flatten(0, 1)
        assert torch.equal(rows if before.proj_size else rows[:, units], new)


@pytest.mark.parametrize(
    ("kind", "layers", "bidirectional", "reads"),
    [
        *((kind, *form, "outputs") for kind in KINDS for form in ((1, False), (2, False), (1, True), (2, True))),
        *((kind, 2, True, "states") for kind in KINDS),
        ("GRU", 2, True, "attention and states"),
        ("LSTM", 2, True, "convolution"),
    ],
)
def test_the_least_important_units_of_each_cell_go(kind: str, layers: int, bidirectional: bool, reads: str) -> None:
    torch.manual_seed(0)
    model = Speech(kind, layers, bidirectional, reads).eval()
    (dead,) = with_dead_units(model, "cells").values()
    smaller = copy.deepcopy(model)
    compression = prune(smaller, SOUND, op_types=(kind,))
    assert compression.targets == ("cells",)
    assert compression.achieved_rate(smaller) == 0.5
    require_dead_units_removed(model, smaller, "cells", dead)
    assert smaller.conv.out_channels == 12
    assert torch.allclose(model(*SOUND), smaller(*SOUND), atol=1e-6)


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_packed_sequences(kind: str, tags: bool) -> None:
    torch.manual_seed(0)
    model = Text(kind, tags).eval()
    (dead,) = with_dead_units(model, "cells").values()
    smaller = copy.deepcopy(model)
    prune(smaller, TOKENS, op_types=(kind,))
    require_dead_units_removed(model, smaller, "cells", dead)
    assert torch.allclose(model(*TOKENS), smaller(*TOKENS), atol=1e-6)
    prune(smaller, TOKENS, op_types=("Linear",))
    assert (smaller.inner.out_features, smaller.cells.input_size) == (6, 6)


def test_hidden_units_with_projected_features() -> None:
    torch.manual_seed(0)
    model = Speech("LSTM", 2, True, proj_size=3).eval()
    (dead,) = with_dead_units(model, "cells").values()
    smaller = copy.deepcopy(model)
    prune(smaller, SOUND)
    require_dead_units_removed(model, smaller, "cells", dead)
    assert (smaller.cells.proj_size, smaller.head.in_features, smaller.cells.input_size) == (3, 6, 6)


class Residual(nn.Module):
    """Hidden units that are added to other channels: both directions of one layer, and one of twice the size."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.head = nn.Linear(5, 16), nn.LayerNorm(16), nn.Linear(16, 3)
        self.one, self.two = nn.GRU(16, 8, bidirectional=True), nn.LSTM(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        x = x + self.one(x)[0]
        return self.head(self.norm(x + self.two(x)[0]))


class Summed(nn.Module):
    """The directions of the last of two layers are added."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(5, 8, 2, bidirectional=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.cells(x)[0]
        return self.head(outputs.view(*outputs.shape[:2], 2, -1).sum(2))


class Translator(nn.Module):
    """The decoder starts from the encoder's states."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = KINDS[kind](5, 8, 2), KINDS[kind](5, 8, 2), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder(x.flip(0), self.encoder(x)[1])[0])


class Siamese(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.cells, self.head = nn.Linear(5, 8), nn.LSTM(8, 8), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.cells(self.inner(each))[1][0][-1] for each in (x, x.flip(0))], 1))


COUPLED = {
    "residual": (Residual, {"inner": 8, "one": 8, "two": 8}),
    "summed": (Summed, {"cells": 16}),
    "LSTM translator": (lambda: Translator("LSTM"), {"encoder": 8, "decoder": 8}),
    "GRU translator": (lambda: Translator("GRU"), {"encoder": 8, "decoder": 8}),
    "siamese": (Siamese, {"inner": 4, "cells": 4}),
}


@pytest.mark.parametrize("net", COUPLED)
def test_coupled_units(net: str) -> None:
    build, expected = COUPLED[net]
    torch.manual_seed(0)
    model = with_distinct_values(build().eval())
    smaller = copy.deepcopy(model)
    assert prune(smaller, STEPS).left_alone == {}
    assert {name: layer_shapes(smaller)[name].width for name in expected} == expected
    check_zeroed(model, smaller, STEPS)


class Kept(nn.Module):
    """The hidden units must stay; what feeds them may lose filters."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why, self.hidden_size = why, 8
        self.inner, self.cells, self.head = nn.Linear(5, 8), nn.GRU(8, 8, 2), nn.Linear(8, 3)
        if why == "tied":
            self.cells.weight_hh_l1 = self.cells.weight_hh_l0

    def forward(self, x: torch.Tensor) -> object:
        sizes = {"given": 8, "counted": self.hidden_size}
        given = torch.zeros(2, x.shape[1], sizes[self.why]) if self.why in sizes else None
        outputs, states = self.cells(torch.relu(self.inner(x)), given)
        outputs = outputs * torch.ones(8) if self.why == "masked" else outputs
        return (self.head(outputs), states) if self.why == "output" else self.head(outputs)


REASONS = {
    "given": r"cells: its initial state is given from outside, whose size must stay; it keeps its hidden units",
    "masked": r"cells: without some of its hidden units the model fails \(Run.*Error: .*\); it keeps its hidden units",
}


@pytest.mark.parametrize("why", ["given", "masked", "output"])
def test_units_that_must_stay(why: str) -> None:
    model = Kept(why).eval()
    compression = prune(model, STEPS, "l1")
    assert ("cells" in compression.targets) == ("cells" in compression.left_alone) == (why != "output")
    assert re.fullmatch(REASONS.get(why, ""), compression.left_alone.get("cells", ""))
    assert model.cells.hidden_size == 8
    assert model.inner.out_features == 4
    model(*STEPS)


def test_an_attribute_that_is_the_size_of_the_initial_state_changes_too() -> None:
    model = with_distinct_values(Kept("counted").eval())
    smaller = copy.deepcopy(model)
    assert prune(smaller, STEPS, "l1").left_alone == {}
    assert (smaller.cells.hidden_size, smaller.hidden_size) == (4, 4)
    check_zeroed(model, smaller, STEPS)


def test_tied_layers_stay() -> None:
    reason = "cells: it is tied to another layer, so that its size must stay; it keeps its hidden units"
    with pytest.raises(CompressionError, match=reason):
        prune(Kept("tied"), STEPS, "l1")


def test_a_model_that_is_a_recurrent_layer() -> None:
    with pytest.raises(CompressionError, match="must have layers beside a recurrent one"):
        prune(nn.LSTM(5, 8), STEPS)


class Sounds(ZooModule):
    """Labels of random sounds, and a trainer."""

    shape, outputs = (5, 12), 4


ALGORITHMS = {
    "l1": {},
    "l2": {},
    "taylorfo": {"training_batches": 2},
    "mean_activation": {"training_batches": 2},
    "apoz": {"training_batches": 2},
    "filter_pruning": {},
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm_scores_units_over_all_gates(algorithm: str) -> None:
    torch.manual_seed(0)
    model = Speech("RNN", 2, True, nonlinearity="relu").eval() if algorithm == "apoz" else Speech("GRU", 2, True).eval()
    with torch.no_grad():
        for suffix in suffixes(model.cells):
            getattr(model.cells, f"bias_ih_{suffix}").add_(1)  # apoz: living units are not zero
    (dead,) = with_dead_units(model, "cells").values()

    class Here(Sounds):
        @classmethod
        def model(cls) -> nn.Module:
            return model

    smaller = copy.deepcopy(model)
    prune(
        smaller, SOUND, algorithm, op_types=(type(model.cells).__name__,), arguments=ALGORITHMS[algorithm], module=Here
    )
    require_dead_units_removed(model, smaller, "cells", dead)


def test_fpgm_measures_distances_between_the_units_of_a_cell() -> None:
    torch.manual_seed(0)
    model, nearest = Speech("GRU", 2, True).eval(), list[int]()
    for cell, suffix in enumerate(suffixes(model.cells)):
        gates = [getattr(model.cells, f"weight_{kind}_{suffix}").detach().chunk(3) for kind in ("ih", "hh")]
        rows = torch.cat([weight for kind in gates for weight in kind], 1)
        order = torch.cdist(rows, rows).sum(1).argsort().tolist()
        nearest += [cell * HIDDEN + unit for unit in order[: HIDDEN // 2]]
    smaller = copy.deepcopy(model)
    prune(smaller, SOUND, "fpgm", op_types=("GRU",))
    require_dead_units_removed(model, smaller, "cells", nearest)


@pytest.mark.parametrize("kind", KINDS)
def test_taylor_is_the_gradient_of_a_factor_at_all_that_reads_a_unit(kind: str) -> None:
    """By finite differences, sample by sample: recurrent weights and the head read each unit."""
    torch.manual_seed(0)
    model = Speech(kind).eval()

    class Here(Sounds):
        @classmethod
        def model(cls) -> nn.Module:
            return model

    request = CompressionRequest(
        "taylorfo", (LayerRule((kind,), rate=0.5),), SOUND, None, {"training_batches": 1}, Here
    )
    with eval_mode(model), require_gradients(model):
        channels = Channels.of(model, request, layer_shapes(model))
        scores = taylor(PruningContext(model, request, channels.behind, channels.couplings))(channels.couplings[0])
    x, y = Here.data()[0]

    def losses(unit: int, factor: float) -> torch.Tensor:
        scaled = copy.deepcopy(model).double()
        with torch.no_grad():
            scaled.cells.weight_hh_l0[:, unit] *= factor
            scaled.head.weight[:, unit] *= factor
            return nn.functional.cross_entropy(scaled(x.double()), y, reduction="none") / len(x)

    felt = [float((losses(unit, 1.001) - losses(unit, 0.999)).abs().sum() / 0.002) for unit in range(HIDDEN)]
    assert torch.allclose(scores, torch.tensor(felt), rtol=1e-3)


@pytest.mark.parametrize(
    ("allocation", "rate_of"),
    [("global", "filters"), ("sensitivity", "filters"), ("least_damage", "parameters"), ("sensitivity", "macs")],
)
def test_allocations(allocation: str, rate_of: str) -> None:
    torch.manual_seed(0)
    model = Speech("GRU", 2, True).eval()

    class Here(Sounds):
        @classmethod
        def model(cls) -> nn.Module:
            return model

    smaller = copy.deepcopy(model)
    arguments = {"allocation": allocation, "rate_of": rate_of}
    compression = prune(smaller, SOUND, rate=0.5, arguments=arguments, module=Here)
    gone = {
        "filters": compression.achieved_rate(smaller),
        "parameters": 1 - parameters(smaller) / parameters(model),
        "macs": 1 - macs(smaller, SOUND) / macs(model, SOUND),
    }[rate_of]
    assert gone == pytest.approx(0.5, abs=0.06)
    assert smaller.cells.hidden_size < 8


def test_a_pruned_model_is_pruned_again_from_the_first_trace() -> None:
    model = Speech("LSTM", 2, True).eval()
    request = CompressionRequest("l1", (LayerRule(("default",), rate=0.5),), SOUND)
    with eval_mode(model), require_gradients(model):
        channels = Channels.of(model, request, layer_shapes(model))
    smaller = copy.deepcopy(model)
    prune(smaller, SOUND)
    narrow = channels.narrowed(smaller)
    with eval_mode(smaller), require_gradients(smaller):
        traced = Channels.of(smaller, request, layer_shapes(model))

    def described(found: Channels) -> list[object]:
        return sorted(
            (each.members, each.width, each.channel_groups, each.alike, sorted(place.key[0] for place in each.places))
            for each in found.couplings
        )

    assert narrow is not None
    assert described(narrow) == described(traced)


def test_nncfs_masks_hide_the_units_that_are_removed() -> None:
    torch.manual_seed(0)
    config = {
        "input_info": {"sample_size": [2, 5, 12]},
        "compression": {"algorithm": "filter_pruning", "pruning_init": 0.5},
    }
    controller, masked = create_compressed_model(Speech("GRU", 2, True), CompressionConfig.from_dict(config))
    expected = masked.eval()(*SOUND)
    stripped = controller.strip()
    assert stripped.cells.hidden_size == HIDDEN // 2
    assert torch.allclose(stripped(*SOUND), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_reload_and_onnx_are_equal(kind: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = Speech(kind, 2, True).eval()
    loaded = copy.deepcopy(model)
    structure_to = copy.deepcopy(model)
    prune(model, SOUND)
    apply_structure(loaded, structure_of(model, structure_to))
    load_weights(loaded, model.state_dict())
    assert torch.equal(loaded(*SOUND), model(*SOUND))
    file = io.BytesIO()
    torch.onnx.export(model, SOUND, file, dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: SOUND[0].numpy()})
    assert torch.allclose(torch.tensor(answer), model(*SOUND), atol=1e-5)


@pytest.mark.slow
def test_training_recovers() -> None:
    """Whether a sequence has more ones than minus ones: learned by 32 units, and again by half of them."""
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (1024, 15)) * 2.0 - 1
    labels = (signs.sum(1) > 0).long()

    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cells, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cells(x)[0][:, -1])

    def train(model: nn.Module, epochs: int) -> float:
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _, part in itertools.product(range(epochs), range(0, 768, 64)):
            optimizer.zero_grad()
            batch = slice(part, part + 64)
            nn.functional.cross_entropy(model(signs[batch, :, None]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            return float((model(signs[768:, :, None]).argmax(1) == labels[768:]).float().mean())

    model = Counter()
    assert train(model, 8) > 0.95
    prune(model, (signs[:2, :, None],), rate=0.75)
    assert model.cells.hidden_size == 8
    assert train(model.train(), 4) > 0.95
