from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress import register_module
from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.layers import (
    ALL_SCOPES,
    FILTER_TYPES,
    WEIGHT_TYPES,
    Scopes,
    absent_types,
    layer_rates,
    registered_types,
    select_layers,
)
from autocompress.errors import CompressionError, ConfigError
from autocompress.formats.checkpoint import load_compressed, save_checkpoint
from autocompress.layer_selector import LayerRule
from autocompress.testing.zoo import Encoder

from .nets import IMAGE, Words, build

INPUTS, SEQUENCE = (torch.randn(2, 6),), torch.randn(2, 6, 16)


@register_module(ignored_algorithms=["level"])
class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 24))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight)


@register_module()
class Weightless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 24), nn.ReLU(), Mixer(), nn.ReLU(), nn.Linear(16, 3)
    )


@pytest.mark.parametrize("name", ["magnitude_sparsity", "naive", "dorefa", "bnn"])
def test_its_weight_is_compressed(name: str, tmp_path: Path) -> None:
    model, original = net(), net()
    rule = LayerRule(("Mixer",), rate=0.5) if name == "magnitude_sparsity" else None
    rule = rule or LayerRule(("Mixer",), quant_types=("weight",), quant={"quant_bits": {"bnn": 1}.get(name, 4)})
    compression = compressor(name).compress(model, CompressionRequest(name, (rule,), INPUTS))
    optimizer = torch.optim.SGD(compression.model.parameters(), lr=0.1)
    compression.model(*INPUTS).square().sum().backward()
    optimizer.step()
    finished = compression.finish(compression.model)
    values = finished.get_submodule("4").weight.unique().numel()
    assert values == 16 * 24 // 2 + 1 if name == "magnitude_sparsity" else values <= 16
    save_checkpoint(finished, tmp_path / "checkpoint", original)
    assert torch.equal(load_compressed(tmp_path / "checkpoint", original)(*INPUTS), finished(*INPUTS))


def test_an_algorithm_may_be_ignored() -> None:
    assert Mixer not in registered_types("level")
    assert Mixer in registered_types("naive")
    with pytest.raises(ConfigError, match="layers of type 'Mixer' cannot be compressed"):
        compressor("level").check(net(), CompressionRequest("level", (LayerRule(("Mixer",), rate=0.5),), INPUTS))


@pytest.mark.parametrize("name", ["l1", "fpgm"])
def test_its_neighbours_keep_the_filters_it_depends_on(name: str) -> None:
    model = net()
    compression = compressor(name).compress(
        model, CompressionRequest(name, (LayerRule(("default",), rate=0.5),), INPUTS)
    )
    assert [tuple(layer.weight.shape) for layer in model if hasattr(layer, "weight")] == [
        (10, 6),
        (24, 10),
        (16, 24),
        (3, 16),
    ]
    loss = compression.model(torch.randn(5, 6)).square().sum()
    loss.backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in model.parameters())


def test_nothing_else_to_remove_is_told() -> None:
    model = nn.Sequential(nn.Linear(6, 24), Mixer(), nn.Linear(16, 3))
    with pytest.raises(CompressionError, match=r"at rate 0\.5 nothing can be removed: every selected layer"):
        compressor("l1").compress(model, CompressionRequest("l1", (LayerRule(("default",), rate=0.5),), INPUTS))


def test_one_without_a_weight() -> None:
    model = nn.Sequential(nn.Linear(6, 6), Weightless())
    request = CompressionRequest("naive", (LayerRule(("Weightless",), quant_types=("weight",)),), INPUTS)
    with pytest.raises(CompressionError, match="a registered module must have a parameter named weight; 1 has none"):
        compressor("naive").compress(model, request)


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'levle'; did you mean 'level'"):
        register_module(ignored_algorithms=["levle"])
    with pytest.raises(ConfigError, match=r"register_module must decorate a class of torch\.nn\.Module; got"):
        register_module()(net())  # type: ignore[type-var]
    assert copy.deepcopy(net())


ALL = (LayerRule(("default",), rate=0.5),)
NAMES = ["encoder.layers.0.linear1", "encoder.layers.0.linear2", "encoder.layers.1.linear1", "encoder.layers.1.linear2"]
LAYERS = ["embedding", *NAMES, "head"]


@pytest.mark.parametrize(
    ("scopes", "selected"),
    [
        (ALL_SCOPES, LAYERS),
        (Scopes(ignored=("head",)), LAYERS[:-1]),
        (Scopes(ignored=("encoder",)), ["embedding", "head"]),
        (Scopes(target=("encoder.layers.1",)), NAMES[2:]),
        (Scopes(target=("encoder",), ignored=("encoder.layers.0.linear1",)), NAMES[1:]),
        (Scopes(target=("{re}linear1$",)), [NAMES[0], NAMES[2]]),
        (Scopes(ignored=(r"{re}layers\.\d\.linear",)), ["embedding", "head"]),
        (Scopes(ignored=(r"{re}layers\.0$",)), ["embedding", *NAMES[2:], "head"]),
        (Scopes(target=("{re}^encoder$",), ignored=("{re}layers$",), validate=False), []),
        (Scopes(target=("{re}^encoder$",)), NAMES),
        (Scopes(ignored=("{re}encoder(?!.*linear2)",)), ["embedding", NAMES[1], NAMES[3], "head"]),
        (Scopes(target=("head",), ignored=("nothing",), validate=False), ["head"]),
    ],
)
def test_what_is_left(scopes: Scopes, selected: list[str]) -> None:
    if selected:
        assert list(select_layers(Encoder(), ALL, FILTER_TYPES, scopes)) == selected
    assert scopes.allowed(Encoder(), LAYERS) == selected


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        (Scopes(ignored=("encodr",)), r"ignored_scopes: 'encodr' matches nothing in the model \(close names: encoder"),
        (
            Scopes(target=("{re}linear3$",)),
            r"target_scopes: '{re}linear3\$' .* \(close names: encoder.layers.0.linear1,",
        ),
        (Scopes(target=("xyz",)), r"'xyz' matches nothing in the model \(names at its top: embedding, encoder, head\)"),
        (Scopes(target=("{re}(",)), r"must be followed by a regular expression; '{re}\('"),
        (Scopes(target=("head",), ignored=("head",)), "the scopes allow none of embedding, "),
    ],
)
def test_a_scope_that_is_no_use(scopes: Scopes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_layers(Encoder(), ALL, FILTER_TYPES, scopes)


def test_part_of_a_name_is_not_a_scope() -> None:
    with pytest.raises(ConfigError, match="'enc' matches nothing in the model"):
        Scopes(target=("enc",)).check(Encoder())


@pytest.mark.parametrize("name", ["l2", "level", "naive"])
def test_algorithms_heed_them(name: str) -> None:
    model, before = build("plain"), build("plain")
    rules = ALL if name != "naive" else (LayerRule(("default",), quant_types=("weight",)),)
    request = CompressionRequest(name, rules, IMAGE, arguments={"ignored_scopes": ("conv1", "{re}head")})
    compressor(name).check(model, request)
    compression = compressor(name).compress(model, request)
    finished = compression.finish(compression.model)
    for layer in ("conv1", "head"):
        weight = finished.get_submodule(layer).weight
        kept = before.get_submodule(layer).weight[:, : weight.shape[1]] if layer == "conv1" else None
        assert weight.shape[0] == before.get_submodule(layer).weight.shape[0], layer
        assert kept is None or bool((weight == kept).all())
    changed = finished.get_submodule("conv2").weight
    assert changed.shape != before.get_submodule("conv2").weight.shape or bool(
        (changed != before.get_submodule("conv2").weight).any()
    )


def rates(*targets: LayerRule, net: str = "plain") -> dict[str, float]:
    return layer_rates(build(net), targets, FILTER_TYPES)


def test_default_is_every_supported_layer() -> None:
    assert rates(LayerRule(("default",), rate=0.3)) == {"conv1": 0.3, "conv2": 0.3, "hidden": 0.3, "head": 0.3}
    assert next(iter(layer_rates(Words(), [LayerRule(("default",), rate=0.3)], WEIGHT_TYPES))) == "embedding"


def test_types_and_names_must_both_hold() -> None:
    assert list(rates(LayerRule(("Conv2d",), rate=0.3))) == ["conv1", "conv2"]
    assert list(rates(LayerRule((), ("head", "conv1"), rate=0.3))) == ["conv1", "head"]
    assert list(rates(LayerRule(("Conv2d",), ("head", "conv1"), rate=0.3))) == ["conv1"]


def test_a_type_that_the_model_has_not_is_passed_over_beside_one_that_it_has() -> None:
    rule = LayerRule(("Conv3d", "Linear", "Conv2d"), rate=0.3)
    assert list(rates(rule)) == ["conv1", "conv2", "hidden", "head"]
    assert absent_types(build("plain"), [rule, LayerRule(("Conv3d",), rate=0.1)], FILTER_TYPES) == [("Conv3d", rule)]
    with pytest.raises(ConfigError, match=r"no layer of type 'Conv3d' \(.*: Conv2d, Linear\)"):
        rates(LayerRule(("Conv3d", "Conv1d"), rate=0.3))
    with pytest.raises(ConfigError, match="'BatchNorm2d' cannot be compressed"):
        rates(LayerRule(("BatchNorm2d", "Linear"), rate=0.3))


def test_later_rules_override_earlier_ones() -> None:
    everything, conv1 = LayerRule(("default",), rate=0.3), LayerRule((), ("conv1",), rate=0.6)
    assert rates(everything, conv1)["conv1"] == 0.6
    assert rates(conv1, everything)["conv1"] == 0.3


def test_excluded_layers_are_taken_out_and_can_come_back() -> None:
    everything, out = LayerRule(("default",), rate=0.3), LayerRule(("Conv2d",), exclude=True)
    assert list(rates(everything, out)) == ["hidden", "head"]
    assert list(rates(everything, out, LayerRule((), ("conv2",), rate=0.1))) == ["conv2", "hidden", "head"]


def test_a_users_own_kind_of_convolution_is_one() -> None:
    class Padded(nn.Conv2d):
        pass

    model = nn.Sequential(Padded(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert list(layer_rates(model, [LayerRule(("Conv2d",), rate=0.5)], FILTER_TYPES)) == ["0", "1"]
    assert list(layer_rates(model, [LayerRule(("Padded",), rate=0.5)], FILTER_TYPES)) == ["0"]


def test_the_projection_inside_attention_is_not_a_layer_of_its_own() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    assert list(layer_rates(model, [LayerRule(("default",), rate=0.5)], WEIGHT_TYPES)) == ["linear1", "linear2"]


class Conv1D(nn.Module):
    """GPT-2's linear layer, whose weight is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight


@pytest.mark.parametrize("name", ["level", "naive", "qat"])
def test_layers_of_other_libraries_are_named(name: str) -> None:
    model = nn.Sequential(Conv1D(), nn.Linear(8, 5), nn.LayerNorm([2, 5]), nn.Linear(5, 6), Conv1D())
    kinds = None if name == "level" else ("weight", "output")[: 1 + (name == "qat")]
    rule = LayerRule(("default",), rate=0.5 if name == "level" else None, quant_types=kinds)
    compression = compressor(name).compress(model, CompressionRequest(name, (rule,), INPUTS))
    sentence = (
        f"Conv1D (2 layers, such as 0): {name} does not know it; autocompress.register_module lets it compress such "
        "layers; they stay as they are"
    )
    assert compression.left_alone == {"0": sentence, "4": sentence}  # type: ignore[attr-defined]
    chosen = replace(rule, op_types=("Linear",))
    compression = compressor(name).compress(copy.deepcopy(Encoder()), CompressionRequest(name, (chosen,), (SEQUENCE,)))
    assert compression.left_alone == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, IMAGE)])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_layers_are_told(make: Callable[[nn.Module], nn.Module]) -> None:
    model = make(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    with pytest.raises(ConfigError, match=r"layers that torch\.jit has scripted or traced cannot be changed; model"):
        select_layers(model, (LayerRule(("default",), rate=0.5),), FILTER_TYPES)


def test_a_model_without_layers_is_told() -> None:
    with pytest.raises(ConfigError, match=r"none that can be compressed \(it has LayerNorm; supported: Conv1d, "):
        select_layers(nn.Sequential(nn.LayerNorm(4)), (LayerRule(("default",), rate=0.5),), FILTER_TYPES)


def test_selecting_needs_no_rate() -> None:
    target = LayerRule(("Linear",))
    assert select_layers(build("plain"), [target], FILTER_TYPES) == {"hidden": target, "head": target}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (LayerRule(("Conv3d",), rate=0.5), r"no layer of type 'Conv3d' \(.*: Conv2d, Linear\)"),
        (LayerRule(("conv2d",), rate=0.5), r"no layer of type 'conv2d'"),
        (LayerRule(("BatchNorm2d",), rate=0.5), r"'BatchNorm2d' cannot be compressed \(supported: Conv1d, "),
        (LayerRule((), ("conv3",), rate=0.5), r"unknown layer 'conv3'; did you mean 'conv2' or 'conv1'\?"),
        (LayerRule((), ("bn1",), rate=0.5), r"'bn1' is a BatchNorm2d, which cannot be compressed"),
        (LayerRule((), ("bn7",), exclude=True), r"unknown layer 'bn7'"),
        (LayerRule(("Linear",), ("conv1",), rate=0.5), r"selects none"),
        (
            LayerRule(("Linear",)),
            r"must have a sparsity or be an exclude; the rule for op_types \['Linear'\] has neither",
        ),
        (LayerRule(("Linear",), rate=1.0), r"must be in \[0, 1\); the rule for op_types \['Linear'\] has 1\.0"),
        (LayerRule(("Linear",), rate=-0.1), r"must be in \[0, 1\).* has -0\.1"),
        (LayerRule(("Linear",), rate=float("nan")), r"must be in \[0, 1\).* has nan"),
        (LayerRule(("default",), exclude=True), r"at least one layer must be selected"),
    ],
)
def test_rules_that_do_not_fit(target: LayerRule, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rates(target)
