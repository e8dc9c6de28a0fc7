from __future__ import annotations

import pytest
from torch import nn

from autocompress.compress.layers import FILTER_TYPES, WEIGHT_TYPES, LayerTarget, layer_rates, select_layers
from autocompress.errors import ConfigError

from .nets import Words, build


def rates(*targets: LayerTarget, net: str = "plain") -> dict[str, float]:
    return layer_rates(build(net), targets, FILTER_TYPES)


def test_default_is_every_supported_layer() -> None:
    assert rates(LayerTarget(("default",), rate=0.3)) == {"conv1": 0.3, "conv2": 0.3, "hidden": 0.3, "head": 0.3}
    assert next(iter(layer_rates(Words(), [LayerTarget(("default",), rate=0.3)], WEIGHT_TYPES))) == "embedding"


def test_types_and_names_must_both_hold() -> None:
    assert list(rates(LayerTarget(("Conv2d",), rate=0.3))) == ["conv1", "conv2"]
    assert list(rates(LayerTarget((), ("head", "conv1"), rate=0.3))) == ["conv1", "head"]
    assert list(rates(LayerTarget(("Conv2d",), ("head", "conv1"), rate=0.3))) == ["conv1"]


def test_later_rules_override_earlier_ones() -> None:
    everything, conv1 = LayerTarget(("default",), rate=0.3), LayerTarget((), ("conv1",), rate=0.6)
    assert rates(everything, conv1)["conv1"] == 0.6
    assert rates(conv1, everything)["conv1"] == 0.3


def test_excluded_layers_are_taken_out_and_can_come_back() -> None:
    everything, out = LayerTarget(("default",), rate=0.3), LayerTarget(("Conv2d",), exclude=True)
    assert list(rates(everything, out)) == ["hidden", "head"]
    assert list(rates(everything, out, LayerTarget((), ("conv2",), rate=0.1))) == ["conv2", "hidden", "head"]


def test_a_users_own_kind_of_convolution_is_one() -> None:
    class Padded(nn.Conv2d):
        pass

    model = nn.Sequential(Padded(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert list(layer_rates(model, [LayerTarget(("Conv2d",), rate=0.5)], FILTER_TYPES)) == ["0", "1"]
    assert list(layer_rates(model, [LayerTarget(("Padded",), rate=0.5)], FILTER_TYPES)) == ["0"]


def test_the_projection_inside_attention_is_not_a_layer_of_its_own() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    assert list(layer_rates(model, [LayerTarget(("default",), rate=0.5)], WEIGHT_TYPES)) == ["linear1", "linear2"]


def test_selecting_needs_no_rate() -> None:
    target = LayerTarget(("Linear",))
    assert select_layers(build("plain"), [target], FILTER_TYPES) == {"hidden": target, "head": target}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (LayerTarget(("Conv3d",), rate=0.5), r"no layer of type 'Conv3d' \(.*: Conv2d, Linear\)"),
        (LayerTarget(("conv2d",), rate=0.5), r"no layer of type 'conv2d'"),
        (LayerTarget(("BatchNorm2d",), rate=0.5), r"'BatchNorm2d' cannot be compressed \(supported: Conv1d, "),
        (LayerTarget((), ("conv3",), rate=0.5), r"unknown layer 'conv3'; did you mean 'conv2' or 'conv1'\?"),
        (LayerTarget((), ("bn1",), rate=0.5), r"'bn1' is a BatchNorm2d, which cannot be compressed"),
        (LayerTarget((), ("bn7",), exclude=True), r"unknown layer 'bn7'"),
        (LayerTarget(("Linear",), ("conv1",), rate=0.5), r"selects none"),
        (LayerTarget(rate=0.5), r"must have op_types or op_names; got neither"),
        (
            LayerTarget(("Linear",)),
            r"must have a sparsity or be an exclude; the rule for op_types \['Linear'\] has neither",
        ),
        (LayerTarget(("Linear",), rate=1.0), r"must be in \[0, 1\); the rule for op_types \['Linear'\] has 1\.0"),
        (LayerTarget(("Linear",), rate=-0.1), r"must be in \[0, 1\).* has -0\.1"),
        (LayerTarget(("Linear",), rate=float("nan")), r"must be in \[0, 1\).* has nan"),
        (LayerTarget(("default",), exclude=True), r"at least one layer must be selected"),
    ],
)
def test_rules_that_do_not_fit(target: LayerTarget, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rates(target)
