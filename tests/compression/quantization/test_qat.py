"""Quantization-aware training to int8: what is trained is the model, and what ends is what was trained."""

import copy

import pytest
import torch

from autocompress.compression.base import CompressionRequest, compressor, fold_parametrizations
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.prepared import QatModel
from autocompress.errors import CompressionError, ConfigError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule
from autocompress.testing import CurveModule, flat
from tests.compression.quantization.support import INT8, Repeated, Siamese, Volumes, levels, quantized, train

from ..nets import IMAGE, NETS, Plain, build
from ..structures import COMPUTED, ComputedWeight

REPEATED = {
    "convolution": lambda: Repeated(1, 2),
    "norm": lambda: Repeated(2, 1),
    "both": Repeated,
    "encoder": Siamese,
}


@pytest.mark.parametrize("net", [*NETS, *REPEATED])
def test_what_ends_is_what_was_trained(net, tmp_path):
    torch.manual_seed(0)
    original = (REPEATED[net]() if net in REPEATED else build(net)).eval()
    compression = quantized(copy.deepcopy(original))
    trained = train(compression.model)
    x = torch.randn(16, *IMAGE[0].shape[1:], generator=torch.Generator().manual_seed(5))
    expected, level = trained(x), levels(trained, x)
    before = copy.deepcopy(trained.state_dict())
    finished = compression.finish(copy.deepcopy(trained))
    assert isinstance(finished, Int8Model)
    assert not compression.simulated
    assert float((finished(x) - expected).abs().max()) <= level, (finished(x), expected)
    assert all(torch.equal(trained.state_dict()[name], tensor) for name, tensor in before.items()), "the copy only"
    save_checkpoint(finished, tmp_path / "model", original)
    assert torch.equal(load_compressed(tmp_path / "model", original)(x), finished(x))


def test_a_repeated_convolution_has_a_weight_for_each_call():
    torch.manual_seed(0)
    compression = quantized(REPEATED["convolution"]())
    weights = {"stem": 3 * 8 * 9, "repeated": 8 * 8 * 9, "head": 8 * 5}
    assert compression.achieved_rate(compression.model) == 0.75
    finished = compression.finish(train(compression.model))
    sizes = [weight.numel() for weight in finished.weights() if weight.dtype is torch.int8]
    assert sorted(sizes) == [*sorted(weights.values()), weights["repeated"]]
    assert compression.achieved_rate(finished) == 0.75


def test_zeros_stay_zeros():
    model = build("plain")
    pruned = compressor("level").compress(
        model, CompressionRequest("level", (LayerRule(("default",), rate=0.7),), IMAGE)
    )
    zeros = {name: pruned.model.get_submodule(name).weight == 0 for name in ("conv1", "conv2", "hidden", "head")}
    compression = quantized(pruned.model)
    trained = train(compression.model, steps=8, weight_decay=0.1)
    finished = compression.finish(trained)
    share = {
        tensor.shape: float((tensor == 0).float().mean()) for tensor in finished.weights() if tensor.dtype is torch.int8
    }
    for name, pruned_weight in zeros.items():
        assert share[pruned_weight.shape] >= float(pruned_weight.float().mean()), (name, share)


def test_what_the_observers_see_comes_from_the_module():
    class Calibrated(CurveModule):
        curve = staticmethod(flat())

        @classmethod
        def calibration_data(cls):
            return [torch.full_like(IMAGE[0], 100.0)]

    plain, calibrated = (quantized(build("plain"), module=module).model for module in (None, Calibrated))
    first = [max(float(each.scale.max()) for each in model._quantizers()) for model in (plain, calibrated)]
    assert first[1] > 10 * first[0], first


def test_a_trainer_that_does_not_run_the_model_leaves_the_example_inputs():
    model = CurveModule.model()
    finished = quantized_of(CurveModule, model)
    assert all(bool(tensor.count_nonzero()) for tensor in finished.weights())


def quantized_of(module, model):
    request = CompressionRequest("qat", INT8, (torch.randn(1, 4),), module=module)
    compression = compressor("qat").compress(model, request)
    return compression.finish(compression.model)


def test_rounding_starts_when_it_is_told_to():
    torch.manual_seed(0)
    rules = (LayerRule(("default",), quant_types=("weight", "output"), quant={"quant_start_step": 2}),)
    model = Plain(norm=False)
    model.dropout.p = 0.0
    graph = quantized(copy.deepcopy(model), rules).model.train()
    same = [torch.allclose(graph(IMAGE[0]), model(IMAGE[0]), atol=1e-5) for _ in range(4)]
    assert same == [True, True, False, False]
    assert not torch.allclose(graph.eval()(IMAGE[0]), model(IMAGE[0]), atol=1e-5)


@pytest.mark.parametrize(
    ("quant_types", "quant", "real"),
    [
        (("weight", "input"), {}, True),
        (("weight", "output"), {"quant_bits": 8}, True),
        (("weight", "output"), {"quant_scheme": {"weight": "per_channel_symmetric"}}, True),
        (("weight", "output"), {"quant_scheme": "per_tensor_affine"}, False),
        (("weight", "output"), {"quant_bits": {"weight": 4, "output": 8}}, False),
        (("weight",), {"quant_bits": 8}, False),
    ],
)
def test_what_has_no_kernels_is_simulated(quant_types, quant, real):
    compression = quantized(build("plain"), (LayerRule(("default",), quant_types=quant_types, quant=quant),))
    assert compression.simulated is not real
    assert isinstance(compression.model, QatModel) is real


def test_a_model_without_layers_that_have_kernels_is_simulated():
    compression = quantized(Volumes())
    assert compression.simulated
    assert compression.achieved_rate(compression.finish(compression.model)) == 0.75


@pytest.mark.parametrize("how", COMPUTED)
def test_a_weight_that_is_computed_is_refused(how):
    make, words = COMPUTED[how]
    message = f"qat needs plain parameters; the weight of first is computed from others, by {words}: .* or take naive"
    with pytest.raises(CompressionError, match=message):
        quantized(ComputedWeight(make))


def test_layers_that_no_rule_selects_stay_in_floating_point():
    rules = (LayerRule(("default",), quant_types=("weight", "output")), LayerRule((), ("head",), exclude=True))
    model = build("plain")
    sizes = {name: module.weight.numel() for name, module in model.named_modules() if hasattr(module, "weight")}
    compression = quantized(model, rules)
    finished = compression.finish(compression.model)
    kinds = {tensor.numel(): tensor.dtype for tensor in finished.weights()}
    assert kinds[sizes["head"]] is torch.float32
    assert kinds[sizes["hidden"]] is torch.int8
    assert compression.achieved_rate(finished) == pytest.approx(0.75)
    weights = sum(sizes[name] for name in ("conv1", "conv2", "hidden", "head"))
    assert compression.achieved_rate(finished, whole_model=True) == pytest.approx(0.75 * (1 - sizes["head"] / weights))


def test_training_that_diverges_is_told():
    graph = quantized(Plain(norm=False)).model.train()
    graph(torch.full_like(IMAGE[0], float("nan")))
    with pytest.raises(CompressionError, match="training must stay finite"):
        graph.eval()


def test_data_that_the_graph_cannot_take_is_told():
    class Wrong(CurveModule):
        curve = staticmethod(flat())

        @classmethod
        def calibration_data(cls):
            return [torch.randn(2, 3, 5, 5)]

    with pytest.raises(CompressionError, match="must accept the module's data"):
        quantized(build("plain"), module=Wrong)


def test_a_rule_that_selects_nothing():
    with pytest.raises(ConfigError, match="unknown layer 'nowhere'"):
        quantized(build("plain"), (LayerRule((), ("nowhere",), quant_types=("weight", "output")),))


def test_folded_masks_do_not_change_the_model():
    model = build("plain")
    pruned = compressor("level").compress(
        model, CompressionRequest("level", (LayerRule(("default",), rate=0.5),), IMAGE)
    )
    expected = pruned.model.eval()(IMAGE[0])
    assert torch.equal(fold_parametrizations(copy.deepcopy(pruned.model)).eval()(IMAGE[0]), expected)


@pytest.mark.slow
def test_ptq_is_qat_that_is_not_trained():
    found = []
    for name in ("qat", "ptq"):
        compression = compressor(name).compress(build("plain"), CompressionRequest(name, INT8, IMAGE))
        found.append(compression.finish(compression.model))
    assert all(isinstance(model, Int8Model) for model in found)
    assert torch.equal(found[0](*IMAGE), found[1](*IMAGE))
