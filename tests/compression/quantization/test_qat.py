"""Quantization-aware training to int8: what is trained is the model, and what ends is what was trained."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.parametrizations import fold_parametrizations
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.compression.quantization.prepared import QatModel
from autocompress.errors import CompressionError, ConfigError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule
from autocompress.testing import CurveModule, flat

from ..nets import IMAGE, NETS, Plain, build

INT8 = (LayerRule(("default",), quant_types=("weight", "output")),)


def stochastic_depth(mode):
    """torchvision's, which drops whole branches."""
    from torchvision.ops import StochasticDepth

    return StochasticDepth(0.3, mode)


class Norms(nn.Module):
    """Its BatchNorm layers have constants of their own, and variances that tell them apart."""

    def __init__(self, eps=0.5, momentum=0.02):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=eps, momentum=momentum)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, eps=eps / 2, momentum=momentum / 2)
        self.alone = nn.BatchNorm2d(8, eps=eps, momentum=momentum, affine=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return self.head(self.alone(x).mean((2, 3)))


class Dropped(nn.Module):
    """Its second layer's output goes through something that is random in training."""

    def __init__(self, drop):
        super().__init__()
        self.conv, self.drop, self.head = nn.Conv2d(3, 8, 3, stride=3), drop, nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.conv(x))).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows, self.head = nn.LSTM(64, 6, num_layers=2, dropout=0.5, batch_first=True), nn.Linear(6, 5)

    def forward(self, x):
        return self.head(self.rows(x.flatten(2))[0].mean(1))


class AsksForTraining(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        found = self.head(x.mean((2, 3)))
        return found if self.training else functional.softmax(found, 1)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))
        self.never = nn.Linear(3, 5)

    def forward(self, x):
        return x.mean((2, 3)) @ self.weight.t()


def quantized(model, targets=INT8, **request):
    return compressor("qat").compress(model, CompressionRequest("qat", targets, IMAGE, **request))


def train(model, steps=4, seed=0, weight_decay=0.0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=weight_decay)
    model.train()
    for _ in range(steps):
        x = torch.randn(8, *IMAGE[0].shape[1:], generator=generator)
        loss = functional.cross_entropy(model(x), torch.randint(0, 5, (8,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def levels(model, x):
    """How much a rounding step of the inputs of every layer, up or down, changes the outputs: about so much."""
    layers = len(model._quantizers()) / 2
    step = float(x.max() - x.min()) / 255
    signs = [torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign() for seed in range(4)]
    return layers * max(float((model(x) - model(x + step * sign)).abs().max()) for sign in signs)


@pytest.mark.parametrize("net", NETS)
def test_what_ends_is_what_was_trained(net, tmp_path):
    original = build(net).eval()
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


def test_nothing_rounded_it_is_the_model():
    model = train(Norms(), steps=10)
    expected = model(IMAGE[0])
    found = quantized(copy.deepcopy(model)).model.unrounded(lambda graph: graph(IMAGE[0]))
    assert torch.allclose(found, expected, atol=1e-5), (found, expected)


def test_constants_of_batchnorm_are_kept():
    model = Norms()
    compression = quantized(copy.deepcopy(model))
    x = torch.randn(8, *IMAGE[0].shape[1:])
    model.train()(x)
    graph = compression.model.train()
    graph(x)
    state = graph.graph.state_dict()
    for name, tensor in model.state_dict().items():
        if "running" in name:
            assert torch.allclose(state[name], tensor, rtol=0.05, atol=0.01), (name, state[name], tensor)
    trained = train(compression.model, steps=10)
    finished = compression.finish(copy.deepcopy(trained))
    assert float((finished(x) - trained(x)).abs().max()) <= levels(trained, x)


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.3),
        nn.Dropout(0.3, inplace=True),
        nn.Dropout2d(0.3),
        nn.AlphaDropout(0.3),
        nn.FeatureAlphaDropout(0.3),
        nn.RReLU(),
        stochastic_depth("row"),
        stochastic_depth("batch"),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, track_running_stats=True),
    ],
    ids=lambda drop: type(drop).__name__,
)
def test_what_is_random_in_training_is_not_in_eval_mode(drop):
    model = Dropped(drop)
    expected = model.eval()(IMAGE[0])
    compression = quantized(copy.deepcopy(model))
    graph = compression.model
    for _ in range(2):  # to eval mode and back
        found = graph.eval().unrounded(lambda each: each(IMAGE[0]))
        assert torch.allclose(found, expected, atol=1e-5), (found, expected)
        assert torch.equal(graph(IMAGE[0]), graph(IMAGE[0]))
        graph.train()
    finished = compression.finish(copy.deepcopy(graph))
    assert torch.equal(finished(IMAGE[0]), finished(IMAGE[0]))


@pytest.mark.parametrize("drop", [nn.Dropout(0.3), nn.Dropout2d(0.3), stochastic_depth("row")])
def test_training_drops_as_much_as_the_module(drop):
    graph = quantized(nn.Sequential(nn.Conv2d(3, 200, 1), nn.Flatten(2), nn.Flatten(), nn.Linear(200 * 64, 3)))
    assert graph.model.training is False
    model = nn.Sequential(nn.Conv2d(3, 200, 1), drop, nn.ReLU())
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(1.0)
    compression = quantized(model)
    compression.model.eval()
    compression.model.train()
    torch.manual_seed(0)
    found = compression.model(torch.randn(100, *IMAGE[0].shape[1:]))
    assert float((found == 0).float().mean()) == pytest.approx(0.3, abs=0.1)


def test_dropout_between_recurrent_layers_stops_in_eval_mode():
    model = Recurrent()
    expected = model.eval()(IMAGE[0])
    graph = quantized(copy.deepcopy(model)).model
    assert torch.allclose(graph.unrounded(lambda each: each(IMAGE[0])), expected, atol=1e-5)
    assert torch.equal(graph(IMAGE[0]), graph(IMAGE[0]))
    graph.train()
    assert not torch.equal(graph(IMAGE[0]), graph(IMAGE[0]))


def test_code_that_asks_for_the_mode_is_refused():
    with pytest.raises(CompressionError, match=r"in eval mode it must compute what the model does.*self\.training"):
        quantized(AsksForTraining())


def test_layers_that_are_not_called_are_refused():
    with pytest.raises(CompressionError, match="torchao quantizes none of never"):
        quantized(Functional())


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
