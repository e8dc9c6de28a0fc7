"""Simulated quantizers: few distinct values, gradients that pass, the same after a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.measure import weights_bytes
from autocompress.compression.quantization import rounding
from autocompress.compression.quantization.rounding import ActivationQuantizer
from autocompress.errors import ConfigError, StoreError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, NETS, Plain, build, train
from ..structures import COMPUTED

WEIGHTS = (LayerRule(("default",), quant_types=("weight",)),)
EVERYTHING = (LayerRule(("default",), quant_types=("weight", "output")),)
QUANTIZERS = ["naive", "dorefa", "bnn", "qat"]


def quantize(model, algorithm, rules=WEIGHTS):
    return compressor(algorithm).compress(model, CompressionRequest(algorithm, rules, IMAGE))


def distinct(model):
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.unique().numel() for name, layer in layers.items()}


def test_no_gradient_passes_outside_of_an_activations_range():
    values = torch.tensor([-2.0, 0.2, 0.7, 3.0], requires_grad=True)
    rounded = rounding.round_between(values, torch.tensor(0.0), torch.tensor(1.0), 2)
    assert rounded.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    rounded.sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("algorithm", QUANTIZERS)
@pytest.mark.parametrize("net", NETS)
def test_a_finished_model_reloads_bit_for_bit(algorithm, net, tmp_path):
    original = build(net)
    rules = WEIGHTS if algorithm == "naive" else EVERYTHING
    if algorithm == "qat":
        rules = (LayerRule(("default",), quant_types=("weight", "output"), quant={"quant_bits": 4}),)
    compression = quantize(copy.deepcopy(original), algorithm, rules)
    assert compression.simulated
    train(compression.model)
    finished = compression.finish(compression.model).eval()
    save_checkpoint(finished, tmp_path / "model", original)
    loaded = load_compressed(tmp_path / "model", original).eval()
    assert torch.equal(loaded(IMAGE[0]), finished(IMAGE[0]))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_bits_are_counted_and_stored(bits):
    rules = (LayerRule(("default",), quant_types=("weight",), quant={"quant_bits": bits}),)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 400, bias=False), nn.Linear(400, 5, bias=False))
    before = weights_bytes(model)
    compression = quantize(model, "qat", rules)
    finished = compression.finish(model)
    assert compression.achieved_rate(finished) == pytest.approx(1 - bits / 32)
    assert max(distinct(finished).values()) <= 2**bits
    assert weights_bytes(finished) <= before * bits / 32 + 8000, (weights_bytes(finished), before)


def test_rates_of_some_layers_and_of_all():
    rules = (LayerRule(("Linear",), quant_types=("weight",)),)
    model = Plain()
    linear = model.hidden.weight.numel() + model.head.weight.numel()
    every = linear + model.conv1.weight.numel() + model.conv2.weight.numel()
    compression = quantize(model, "naive", rules)
    assert compression.achieved_rate(model) == pytest.approx(0.75)
    assert compression.achieved_rate(model, whole_model=True) == pytest.approx(0.75 * linear / every)


@pytest.mark.parametrize("algorithm", ["dorefa", "bnn"])
def test_the_first_and_the_last_layer_are_spared_unless_named(algorithm):
    model = Plain()
    many = distinct(model)
    finished = quantize(copy.deepcopy(model), algorithm).finish
    spared = finished(quantize(copy.deepcopy(model), algorithm).model)
    assert {name for name, count in distinct(spared).items() if count < many[name]} == {"conv2", "hidden"}
    rules = (*WEIGHTS, LayerRule((), ("conv1",), quant_types=("weight",)))
    named = finished(quantize(copy.deepcopy(model), algorithm, rules).model)
    assert {name for name, count in distinct(named).items() if count < many[name]} == {"conv1", "conv2", "hidden"}


@pytest.mark.parametrize("how", COMPUTED)
def test_a_weight_that_is_computed_is_left_alone_and_counted(how):
    model, (make, words) = build("plain"), COMPUTED[how]
    make(model.eval().conv2)  # in training, spectral_norm estimates anew
    before = model.conv2.weight.detach().clone()
    compression = quantize(model, "naive", WEIGHTS)
    assert compression.left_alone == {
        "conv2": f"conv2: its weight is computed from other parameters, by {words}; it stays as it is"
    }
    assert torch.equal(model.conv2.weight, before)
    others = sum(layer.weight.numel() for layer in (model.conv1, model.hidden, model.head))
    assert compression.achieved_rate(model) == 0.75 * others / (others + before.numel())
    assert compression.achieved_rate(compression.finish(model)) == 0.75 * others / (others + before.numel())


def test_its_activations_are_rounded_all_the_same():
    model = build("plain")
    nn.utils.parametrizations.weight_norm(model.conv2)
    quantize(model, "dorefa", EVERYTHING)
    assert sum(isinstance(module, ActivationQuantizer) for module in model.conv2.modules()) == 1


def test_masks_hold_under_a_grid_without_zero():
    model = Plain()
    pruned = compressor("level").compress(
        model, CompressionRequest("level", (LayerRule(("default",), rate=0.6),), IMAGE)
    )
    zeros = {name: pruned.model.get_submodule(name).weight == 0 for name in ("conv2", "hidden")}
    compression = quantize(pruned.model, "bnn")
    train(compression.model)
    finished = compression.finish(compression.model)
    for name, gone in zeros.items():
        weight = finished.get_submodule(name).weight
        assert bool((weight[gone] == 0).all())
        assert weight[~gone].unique().numel() == 2


def test_ranges_of_activations_follow_the_data_in_training_and_stay_in_eval_mode():
    quantizer = ActivationQuantizer(8)
    quantizer.train()(torch.tensor([-1.0, 3.0]))
    assert (float(quantizer.low), float(quantizer.high)) == (-1.0, 3.0)
    quantizer(torch.tensor([-1.0, 13.0]))
    assert float(quantizer.high) == pytest.approx(4.0)
    quantizer.eval()(torch.tensor([-100.0, 100.0]))
    assert float(quantizer.high) == pytest.approx(4.0)
    assert quantizer(torch.tensor([100.0])).item() == pytest.approx(4.0)


@pytest.mark.parametrize("quant_types", [("weight",), ("weight", "input"), ("weight", "output"), ("input", "output")])
def test_rounding_starts_when_it_is_told_to(quant_types):
    rules = (LayerRule(("default",), quant_types=quant_types, quant={"quant_start_step": 3, "quant_bits": 2}),)
    model = Plain(norm=False)
    model.dropout.p = 0.0
    expected = model.train()(IMAGE[0])
    quantized = quantize(copy.deepcopy(model), "qat", rules).model.train()
    same = [torch.allclose(quantized(IMAGE[0]), expected, atol=1e-5) for _ in range(5)]
    assert same[0], same
    assert not same[-1], same
    assert same == sorted(same, reverse=True)


@pytest.mark.parametrize(
    ("algorithm", "quant_types", "quant", "message"),
    [
        ("naive", ("weight", "output"), {}, "naive quantizes weight only; got quant type 'output'"),
        ("naive", ("weight",), {"quant_bits": 16}, "quant_bits of naive must be 2 to 8; got 16 for weight"),
        ("bnn", ("weight",), {"quant_bits": 2}, "quant_bits of bnn must be 1; got 2 for weight"),
        ("dorefa", ("weight",), {"quant_bits": {"weight": 9}}, "quant_bits of dorefa must be 1 to 8; got 9"),
        ("dorefa", ("weight",), {"quant_scheme": "per_channel_affine"}, "quant_scheme of dorefa, which is simulated"),
        ("qat", ("output",), {"quant_scheme": "per_channel_affine"}, "must be per_tensor_... for output; got 'per_ch"),
    ],
)
def test_what_cannot_be_done_is_refused(algorithm, quant_types, quant, message):
    with pytest.raises(ConfigError, match=message):
        quantize(Plain(), algorithm, (LayerRule(("default",), quant_types=quant_types, quant=quant),))


@pytest.mark.parametrize("scheme", ["per_channel_symmetric", "per_channel_affine"])
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 3), nn.Linear(7, 5)], ids=lambda each: type(each).__name__
)
def test_each_filter_may_have_levels_of_its_own(layer, scheme):
    layer, channel = copy.deepcopy(layer), 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    with torch.no_grad():
        for index, filter_ in enumerate(layer.weight.unbind(channel)):
            filter_.mul_(10.0**-index)
    before = layer.weight.detach().clone()
    rules = (LayerRule(("default",), quant_types=("weight",), quant={"quant_bits": 3, "quant_scheme": scheme}),)
    compression = quantize(nn.Sequential(layer), "qat", rules)
    after = compression.finish(compression.model)[0].weight.detach()
    for one, other in zip(before.unbind(channel), after.unbind(channel), strict=True):
        assert other.unique().numel() <= 8
        assert float((one - other).abs().max()) <= float(one.abs().max()) / 3, "the smallest filter has fine levels too"


def test_a_symmetric_range_has_zero_and_is_as_wide_below_as_above():
    values = torch.tensor([-1.0, -0.3, 0.0, 0.4, 0.5])
    quantizer = ActivationQuantizer(bits=3, symmetric=True)
    rounded = quantizer.train()(values)
    assert rounded.tolist() == pytest.approx([-1.0, -1 / 3, 0.0, 1 / 3, 2 / 3]), "steps of a third, from -4/3 to 1"
    assert quantizer.eval()(torch.tensor([5.0, -5.0])).tolist() == pytest.approx([1.0, -4 / 3])
    above = ActivationQuantizer(bits=2, symmetric=True)
    assert above.train()(values.clamp_min(0)).tolist() == pytest.approx([0, 0, 0, 1 / 3, 1 / 2]), (
        "nothing is below zero"
    )


def test_a_symmetric_range_is_reloaded(tmp_path):
    original = Plain()
    quant = {"quant_bits": 4, "quant_scheme": {"output": "per_tensor_symmetric", "weight": "per_channel_symmetric"}}
    rules = (LayerRule(("default",), quant_types=("weight", "output"), quant=quant),)
    compression = quantize(copy.deepcopy(original), "qat", rules)
    finished = compression.finish(compression.model).eval()
    save_checkpoint(finished, tmp_path / "model", original)
    loaded = load_compressed(tmp_path / "model", original).eval()
    assert loaded.conv1.output_quantizer.symmetric
    assert torch.equal(loaded(IMAGE[0]), finished(IMAGE[0]))


def test_bits_by_quant_type():
    quant = {"quant_bits": {"weight": 4, "output": 2}}
    finished = quantize(
        Plain(norm=False), "qat", (LayerRule(("Conv2d",), quant_types=("weight", "output"), quant=quant),)
    )
    model = finished.finish(finished.model).eval()
    seen = []
    model.conv1.register_forward_hook(lambda *arguments: seen.append(arguments[-1]))
    model(IMAGE[0])
    assert model.conv1.weight.unique().numel() <= 16
    assert seen[0].unique().numel() <= 4


def test_a_damaged_description_of_activations_is_refused(tmp_path):
    original = Plain()
    finished = quantize(copy.deepcopy(original), "dorefa", EVERYTHING)
    save_checkpoint(finished.finish(finished.model), tmp_path / "model", original)
    structure = tmp_path / "model" / "structure.json"
    structure.write_text(structure.read_text().replace('"start_step"', '"started"'))
    with pytest.raises(StoreError):
        load_compressed(tmp_path / "model", original)
