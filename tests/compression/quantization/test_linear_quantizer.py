"""Quantization of linear layers: what ends is what was trained, and what is harmed most stays in floating point."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from autocompress import AbstractAutoCompressionModule
from autocompress.algorithms import algorithms
from autocompress.compression.base import AppliedAlgorithms, CompressionRequest, compressor
from autocompress.compression.measure import measure
from autocompress.compression.model_state import forward_outputs
from autocompress.compression.pruning.attention import split_attention
from autocompress.compression.quantization.linear_quantizer import layer_damage
from autocompress.compression.quantization.stored_linear import (
    KINDS,
    convert,
    is_two_of_four,
    stored_layers,
    two_of_four,
)
from autocompress.errors import CompressionError, ConfigError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule

INPUTS = (torch.randn(8, 32, generator=torch.Generator().manual_seed(1)),)
ON_CPU = [name for name in KINDS if name != "int4_weight_only"]


class Net(nn.Module):
    """Four layers, one of them with a weight so large that eight bits are few for the others in its row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
        self.outlier, self.head = nn.Linear(32, 32), nn.Linear(32, 4)
        with torch.no_grad():
            self.outlier.weight[:, 0] = 30
            self.second.weight[0], self.second.bias[0] = 0, 0  # what it is multiplied by is zero

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(self.outlier(x))


def request(name, rate=None, model=None, **arguments):
    types = algorithms()[name].default_quant_types
    rule = LayerRule(("default",), quant_types=types, rate=rate)
    return CompressionRequest(name, (rule,), INPUTS if model is None else model, arguments=arguments)


def compressed(name, rate=None, model=None):
    return compressor(name).compress(Net() if model is None else model, request(name, rate))


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        model(*INPUTS).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("name", ON_CPU)
def test_what_ends_is_what_was_trained(name, tmp_path):
    compression = compressed(name)
    before = copy.deepcopy(compression.model.state_dict())
    trained = train(compression.model)
    moved = {key for key, value in trained.state_dict().items() if not torch.equal(value, before[key])}
    assert {f"{layer}.bias" for layer in ("first", "second", "outlier", "head")} <= moved
    (wanted,), rate = forward_outputs(trained, INPUTS), compression.achieved_rate(trained)
    finished = compression.finish(copy.deepcopy(trained))
    (found,) = forward_outputs(finished, INPUTS)
    apart = float((found - wanted).abs().max() / wanted.abs().max())
    assert apart <= (1e-5 if compression.converts else 0), "integer products have no rounding errors of their own"
    save_checkpoint(finished, tmp_path / "model", Net())
    loaded = load_compressed(tmp_path / "model", Net())
    assert torch.equal(forward_outputs(loaded, INPUTS)[0], found)
    assert type(loaded.first) is type(finished.first)
    assert compression.achieved_rate(loaded) == rate == KINDS[name].SAVED
    sizes = [measure(model, INPUTS) for model in (Net(), finished)]
    assert sizes[1].bytes < 0.75 * sizes[0].bytes
    assert sizes[1].macs == sizes[0].macs
    assert sizes[1].parameters == sizes[0].parameters


def test_two_of_four_is_simulated_where_no_kernels_are():
    compression = compressed("semi_structured")
    assert compression.simulated
    finished = compression.finish(train(compression.model))
    assert not stored_layers(finished)
    assert all(is_two_of_four(layer.weight) for layer in finished.children())
    assert not compressed("int8_dynamic").simulated


@pytest.mark.parametrize("name", ["int8_weight_only", "int8_dynamic"])
def test_layers_that_are_harmed_most_stay_in_floating_point(name):
    groups = dict.fromkeys(("first", "second", "outlier", "head"), 0)
    damage = layer_damage(Net(), request(name), groups)
    assert max(damage, key=damage.get) == "outlier"
    kept = []
    for rate in (0.1, 0.48, 0.51, 0.75):
        compression = compressed(name, rate)
        found = set(stored_layers(compression.finish(compression.model)))
        kept.append(found)
        assert set(compression.left_alone) == groups.keys() - found
        assert all("stays in floating point" in why for why in compression.left_alone.values())
    assert kept[0] < kept[1] < kept[2] < kept[3] == groups.keys(), "a higher rate quantizes more of the same order"
    assert "outlier" not in kept[2]


def test_rate_zero_changes_nothing():
    compression = compressed("int8_dynamic", 0.0)
    assert compression.achieved_rate(compression.model) == 0
    assert torch.equal(forward_outputs(compression.finish(compression.model), INPUTS)[0], Net()(*INPUTS))


def test_there_is_one_rate():
    rules = tuple(LayerRule(("default",), (name,), ("weight",), rate) for name, rate in (("first", 0.2), ("head", 0.3)))
    with pytest.raises(ConfigError, match=r"must have one sparsity in all entries, or none; got 0.2, 0.3"):
        compressor("int8_weight_only").check(Net(), CompressionRequest("int8_weight_only", rules, INPUTS))


def test_a_search_goes_on_from_a_finished_model():
    first = compressed("int8_weight_only", 0.3)
    half = first.finish(first.model)
    again = compressed("int8_weight_only", 0.75, half)
    assert train(again.model) is half
    assert set(stored_layers(again.finish(half))) == {"first", "second", "outlier", "head"}


@pytest.mark.parametrize("name", ["int8_weight_only", "int8_dynamic", "semi_structured"])
@pytest.mark.parametrize("pruner", ["level", "l2"])
def test_it_is_the_last_of_a_mix(pruner, name):
    applied, model = AppliedAlgorithms(), Net()
    cut = CompressionRequest(pruner, (LayerRule(("default",), rate=0.5),), INPUTS)
    model = applied.apply(applied.apply(model, cut), request(name))
    rate = applied.compressions[0].achieved_rate(model)
    finished = applied.finish(copy.deepcopy(train(model)))
    assert applied.compressions[0].achieved_rate(finished) >= rate >= 0.4
    assert applied.compressions[1].achieved_rate(finished) == KINDS[name].SAVED


class Odd(nn.Module):
    """Layers that cannot be quantized, each for a reason of its own."""

    def __init__(self):
        super().__init__()

        class Doubled(nn.Linear):
            def forward(self, input):
                return 2 * super().forward(input)

        self.embedding, self.tied = nn.Embedding(7, 32), nn.Linear(32, 7, bias=False)
        self.tied.weight = self.embedding.weight
        self.own, self.read, self.plain = Doubled(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 32))

    def forward(self, x):
        x = self.plain(self.own(self.normed(x)))
        return self.tied(nn.functional.linear(x, self.read.weight))


def test_what_cannot_be_quantized_is_left_alone_with_the_reason():
    compression = compressed("int8_dynamic", model=Odd())
    assert set(stored_layers(compression.finish(compression.model))) == {"plain"}
    words = {"tied": "that of another layer", "own": "forward of its own", "read": "other code reads its weight"}
    assert set(compression.left_alone) == {*words, "normed"}
    for layer, text in words.items():
        assert text in compression.left_alone[layer]
    model = Odd()
    model.plain = nn.Identity()
    with pytest.raises(CompressionError, match=r"int8_dynamic must quantize something; .*: take qat or naive"):
        compressor("int8_dynamic").check(model, request("int8_dynamic"))


def test_bits_and_types_that_it_does_not_have_are_refused():
    four = LayerRule(("default",), quant_types=("weight",), quant={"quant_bits": 4})
    output = LayerRule(("default",), quant_types=("output",))
    for rule, message in ((four, "quant_bits of int8_dynamic must be 8"), (output, "quantizes weight, input only")):
        with pytest.raises(ConfigError, match=message):
            compressor("int8_dynamic").check(Net(), CompressionRequest("int8_dynamic", (rule,), INPUTS))
    with pytest.raises(CompressionError, match="int4_weight_only needs a device with int4 kernels"):
        compressor("int4_weight_only").check(Net(), request("int4_weight_only", group_size=32))


@pytest.mark.parametrize("name", ["int8_dynamic", "int8_weight_only"])
def test_fused_encoder_layers_call_their_layers(name, tmp_path):
    def build():
        torch.manual_seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2).eval()

    inputs = (INPUTS[0].view(2, 4, 32),)
    compression = compressor(name).compress(build(), request(name, model=inputs))
    (wanted,) = forward_outputs(compression.model, inputs)
    finished = compression.finish(compression.model)
    (found,), (plain,) = forward_outputs(finished, inputs), forward_outputs(build(), inputs)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert 0 < float((found - plain).abs().max()) < 0.1
    save_checkpoint(finished, tmp_path / "model", build())
    assert torch.equal(forward_outputs(load_compressed(tmp_path / "model", build()), inputs)[0], found)


class Own(nn.MultiheadAttention):
    """May compute something else."""


class Attention(nn.Module):
    """Attentions of both kinds of projections, one with biases of keys, and one that cannot be split."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.packed = nn.MultiheadAttention(32, 4, batch_first=True, add_bias_kv=True)
        self.separate = nn.MultiheadAttention(32, 4, batch_first=True, kdim=8, vdim=4)
        self.own = Own(32, 4, batch_first=True)

    def forward(self, x):
        x = self.packed(x, x, x)[0]
        return self.own(*[self.separate(x, x[..., :8], x[..., :4])[0]] * 3)[0]


PROJECTIONS = {f"{name}.{part}_proj" for name in ("packed", "separate") for part in ("q", "k", "v", "out")}
WORDS = (INPUTS[0].view(2, 4, 32),)


@torch.no_grad()
def rounded_attention(kind):
    """The attentions as they are, with rounded weights in them."""
    model = Attention()
    for place, weight in model.named_parameters():
        if weight.dim() == 2 and not place.startswith("own"):
            weight.copy_(weight.masked_fill(two_of_four(weight), 0) if kind.UNIT == 4 else kind.rounded(weight, 0))
    return model


@pytest.mark.parametrize("name", ON_CPU)
def test_projections_of_attention_are_quantized(name, tmp_path):
    compressor(name).check(untouched := Attention(), request(name, model=WORDS))
    assert type(untouched.packed) is nn.MultiheadAttention
    compression = compressor(name).compress(Attention(), request(name, model=WORDS))
    assert set(compression.groups) == PROJECTIONS
    assert {place: why.partition(" ")[2] for place, why in compression.left_alone.items()} == {
        "own": "is a Own, which may compute something else than nn.MultiheadAttention; it stays as it is",
        **dict.fromkeys(
            ("packed.bias_k", "packed.bias_v"),
            "a row of its weight is one number, so that nothing is saved; it stays as it is",
        ),
    }
    finished = compression.finish(compression.model)
    (found,), (wanted,) = (forward_outputs(model, WORDS) for model in (finished, rounded_attention(KINDS[name])))
    assert float((found - wanted).norm() / wanted.norm()) < (0.02 if name == "int8_dynamic" else 1e-5)
    assert compression.achieved_rate(finished) == KINDS[name].SAVED
    save_checkpoint(finished, tmp_path / "model", Attention())
    assert torch.equal(forward_outputs(load_compressed(tmp_path / "model", Attention()), WORDS)[0], found)


def test_attention_without_a_quantized_projection_stays_one():
    compression = compressor("int8_weight_only").compress(Attention(), request("int8_weight_only", 0.1, WORDS))
    kept = {name: type(each) is nn.MultiheadAttention for name, each in compression.model.named_children()}
    assert kept == {
        name: name == "packed" or (name == "separate" and not any(each.startswith(name) for each in compression.groups))
        for name in kept
    }


def test_a_projection_of_int4_weights_has_its_size():
    model = Attention()
    split_attention(model)
    for part in (model.packed.q_proj, model.packed.out_proj):
        convert(part, KINDS["int4_weight_only"], part.weight, 32)
    assert model.packed.is_sound
    model.packed.q_proj.in_features = 16
    assert not model.packed.is_sound


def test_layers_are_ranked_by_the_loss_of_the_module():
    class Module(AbstractAutoCompressionModule):
        @classmethod
        def model(cls):
            return Net()

        @classmethod
        def evaluator(cls):
            return lambda _: 1.0

        @classmethod
        def sensitivity_loss(cls):
            first = Net().first.weight.detach()
            return lambda model: float((model.first.weight - first).abs().sum())

    own = dataclasses.replace(request("int8_weight_only"), module=Module)
    damage = layer_damage(Net(), own, dict.fromkeys(("first", "second", "outlier", "head"), 0))
    assert damage.pop("first") > 0
    assert set(damage.values()) == {0.0}
