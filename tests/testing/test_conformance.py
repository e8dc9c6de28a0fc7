"""The zero test sees a cut that is wrong."""

from __future__ import annotations

import copy
import itertools
import re

import pytest
import torch
from torch import nn

from autocompress import AbstractAutoCompressionModule
from autocompress.compression.base import CompressionRequest
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.errors import AutoCompressError, CompressionError
from autocompress.layer_selector import LayerRule
from autocompress.registry import algorithms
from autocompress.testing import conformance
from autocompress.testing.conformance import RATES, check_conformance, check_cut, check_zeroed, with_distinct_values
from autocompress.testing.zoo import ZOO
from tests.compression.structures import PRUNED, STRUCTURES, structure

INPUTS = (torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)
KEPT = [0, 2, 5]


@pytest.fixture
def whole():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    return with_distinct_values(nn.Sequential(*layers)).eval()


def cut(whole, columns=KEPT, scales=KEPT):
    smaller = copy.deepcopy(whole)
    with torch.no_grad():
        for layer, names, kept in ((smaller[0], ("weight", "bias"), KEPT), (smaller[1], _NORM, scales)):
            for name in names:
                value = getattr(layer, name)[kept].clone()
                setattr(layer, name, nn.Parameter(value) if name in ("weight", "bias") else value)
        smaller[3].weight = nn.Parameter(smaller[3].weight[:, columns].clone())
    return smaller


_NORM = ("weight", "bias", "running_mean", "running_var")


def test_a_right_cut_passes(whole):
    check_zeroed(whole, cut(whole), INPUTS)


def test_columns_of_other_channels_are_seen(whole):
    with pytest.raises(AssertionError, match="whose lost filters are zero; outputs differ by"):
        check_zeroed(whole, cut(whole, columns=[0, 5, 2]), INPUTS)


def test_scales_of_other_channels_are_seen(whole):
    with pytest.raises(AssertionError):
        check_zeroed(whole, cut(whole, scales=[0, 2, 4]), INPUTS)


def test_marking_makes_all_values_differ_and_changes_no_weight():
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6))
    found = with_distinct_values(model)
    assert torch.equal(found[0].weight, model[0].weight)
    for values in (found[0].bias, found[1].weight, found[1].running_mean, found[1].running_var):
        assert values.unique().numel() == 6
    assert model[1].weight.unique().numel() == 1, "a copy is marked"


NO_SCALES = (CompressionError, "slim ranks filters by the scales of BatchNorm layers; the model has none")
REFUSALS: dict[tuple[str, str], tuple[type[AutoCompressError], str]] = {
    ("slim", "cnn_no_norm"): NO_SCALES,
    ("slim", "transformer"): NO_SCALES,
    ("slim", "regression"): NO_SCALES,
    ("apoz", "regression"): (CompressionError, "apoz ranks filters by how often their activations are zero"),
    ("int4_weight_only", "transformer"): (CompressionError, "needs a device with int4 kernels, and cpu has none"),
    ("filter_pruning", "custom_layer"): (CompressionError, "shares filters with the model's output, its input, or"),
}
"""Where an algorithm cannot be applied, and how it says so."""


MIXES = ("l2+qat", "level+qat", "level+dorefa", "l2+int8_dynamic")
LINEAR_LAYERS = ("int8_dynamic", "int8_weight_only", "int4_weight_only", "semi_structured", "l2+int8_dynamic")
"""What changes linear layers alone, and is tried where there are several."""


class ResNet10(ZOO["resnet18"]):
    """One block a stage; nothing in the others is of another kind."""

    @staticmethod
    def build():
        from torchvision.models.resnet import BasicBlock, ResNet

        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


class ShortMobileNetV2(ZOO["mobilenet_v2"]):
    """The block without an expansion, one with a stride, and one with a shortcut."""

    @staticmethod
    def build():
        from torchvision.models import MobileNetV2

        return MobileNetV2(10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 1], [6, 24, 1, 1]])


NETS = {**ZOO, "resnet10": ResNet10, "short_mobilenet_v2": ShortMobileNetV2}
WHOLE = {"resnet18": ("l2", "slim", "l2+qat"), "mobilenet_v2": ("l2", "taylorfo", "qat")}
"""Large nets, whose blocks are all alike, and what compresses them whole; every algorithm compresses the short ones."""
SLOW_MODELS = (*WHOLE, "resnet10", "short_mobilenet_v2", "vgg_bn", "cnn_no_norm")


EXPORTED: set[str] = set()
"""Pruners that leave the same widths share the check of the export, which depends on nothing else of them."""


def combinations():
    for model, algorithm in itertools.product(NETS, [*algorithms(), *MIXES]):
        if algorithm in LINEAR_LAYERS and model != "transformer":
            continue
        if algorithm in WHOLE.get(model, (algorithm,)):
            is_slow = model in SLOW_MODELS or "qat" in algorithm or algorithm == "ptq"
            yield pytest.param(model, algorithm, marks=[pytest.mark.slow] if is_slow else [])


@pytest.mark.parametrize(("model", "algorithm"), combinations())
def test_it_conforms(model: str, algorithm: str) -> None:
    if (algorithm, model) not in REFUSALS:
        check_conformance(NETS[model], algorithm, RATES if algorithm in algorithms() else RATES[-1:], EXPORTED)
        return
    kind, message = REFUSALS[algorithm, model]
    with pytest.raises(kind, match=re.escape(message)):
        check_conformance(NETS[model], algorithm)


def test_an_export_is_checked_once_for_the_same_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    checked, exported = list[nn.Module](), set[str]()
    monkeypatch.setattr(conformance, "_check_export", lambda finished, _: checked.append(finished))
    for rates in ((0.6,), (0.6,), (0.3,)):
        check_conformance(NETS["regression"], "l2", rates, exported)
    for algorithm in ("level", "level", "dorefa", "dorefa"):
        check_conformance(NETS["regression"], algorithm, (0.6,), exported)
    assert len(checked) == 5, "l2 at two rates, level once, the quantizer each time"
    assert len(exported) == 3


def transformers_bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    return BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=16, num_labels=3, **sizes))


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    model = VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # it begins at zero
    return model


TRANSFORMERS = {
    "bert": (transformers_bert, lambda seed: torch.randint(0, 50, (4, 12), generator=seed)),
    "vit": (torchvision_vit, lambda seed: torch.randn(4, 3, 16, 16, generator=seed)),
}


def transformer_module(name: str) -> type[AbstractAutoCompressionModule]:
    """A module of a small net of another library, trained to give small outputs."""
    build, inputs = TRANSFORMERS[name]

    class Module(AbstractAutoCompressionModule):
        @classmethod
        def model(cls):
            torch.manual_seed(0)
            return build().eval()

        @classmethod
        def evaluator(cls):
            return lambda _: 1.0

        @classmethod
        def example_inputs(cls):
            return inputs(torch.Generator().manual_seed(0))

        @classmethod
        def calibration_data(cls):
            return [inputs(torch.Generator().manual_seed(seed)) for seed in (1, 2)]

        @classmethod
        def optimizer_factory(cls):
            return lambda parameters: torch.optim.SGD(parameters, lr=0.01)

        @classmethod
        def sparsifying_trainer(cls, _):
            def train(model, optimizer, _, __):
                for batch in cls.calibration_data():
                    optimizer.zero_grad()
                    outputs = model(batch)
                    getattr(outputs, "logits", outputs).square().mean().backward()
                    optimizer.step()

            return train

    return Module


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ptq", "int8_dynamic", "int8_weight_only", "semi_structured"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_quantizers_conform_on_transformers_of_other_libraries(name: str, algorithm: str) -> None:
    if name == "bert":
        pytest.importorskip("transformers")
    check_conformance(transformer_module(name), algorithm)


FILTER_PRUNERS = ("l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation", "filter_pruning")
NEVER_ZERO = ("fused_attention", "normed_features", "split_and_concat")
"""Structures with GELU or SiLU, of which apoz can say nothing."""


@pytest.mark.parametrize("algorithm", FILTER_PRUNERS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_what_is_hard_to_follow_is_pruned_rightly_or_left_alone(name: str, algorithm: str) -> None:
    module = structure(name)
    if algorithm == "slim" and not any(isinstance(layer, nn.BatchNorm2d) for layer in module.model().modules()):
        return  # nothing to rank filters by
    if algorithm == "apoz" and name in NEVER_ZERO:
        with pytest.raises(CompressionError, match=r"none is zero .*; take mean_activation or taylorfo"):
            check_cut(module, algorithm, 0.5)
        return
    everything = {"prune_first_conv": True, "prune_downsample_convs": True} if algorithm == "filter_pruning" else {}
    compression = check_cut(module, algorithm, 0.5, **everything)
    pruned, left_alone = PRUNED[name]
    assert set(compression.changed) == pruned
    assert set(compression.left_alone) == left_alone
    assert 0 < compression.achieved_rate(compression.model) <= 0.5
    for why in compression.left_alone.values():
        assert why.split(":")[0] in left_alone
        assert why.endswith("; it keeps its filters")


def test_the_zero_test_sees_one_wrong_column() -> None:
    original = with_distinct_values(structure("normed_features").model())
    inputs = (structure("normed_features").example_inputs(),)
    request = CompressionRequest("l2", (LayerRule(("default",), rate=0.5),), inputs)
    smaller = FilterCompressor().compress(copy.deepcopy(original), request).model
    check_zeroed(original, smaller, inputs)
    with torch.no_grad():  # the columns of two channels change places
        smaller.second.weight[:, [2, 3]] = smaller.second.weight[:, [3, 2]]
    with pytest.raises(AssertionError, match="whose lost filters are zero; outputs differ by"):
        check_zeroed(original, smaller, inputs)
