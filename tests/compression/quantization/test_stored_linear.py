"""Linear layers that hold few bits: what they compute, against torchao's and torch's own kernels."""

import copy

import pytest
import torch
from torch import nn

from autocompress.compression.quantization.stored_linear import (
    KINDS,
    Int4WeightLinear,
    Int8DynamicLinear,
    Int8WeightLinear,
    SemiStructuredLinear,
    attach_stored,
    convert,
    group_size_of,
    is_two_of_four,
    require_kernel,
    restore,
    rounded_rows,
    stored_layers,
    tinygemm_scales,
    two_of_four,
)
from autocompress.errors import CompressionError, StoreError

INPUTS = 64


def linear(outputs=16, inputs=INPUTS, bias=True):
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias=bias)


def held(kind, layer=None, group=None):
    layer = copy.deepcopy(layer if layer is not None else linear())
    convert(layer, kind, layer.weight, (32 if kind.GROUPED else 0) if group is None else group)
    return layer


def rows(*shape):
    return torch.randn(*shape, INPUTS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "config"),
    [(Int8WeightLinear, "Int8WeightOnlyConfig"), (Int8DynamicLinear, "Int8DynamicActivationInt8WeightConfig")],
)
def test_int8_layers_compute_what_torchao_computes(kind, config):
    from torchao import quantization

    plain, x = linear(), rows(3, 5)
    theirs = nn.Sequential(copy.deepcopy(plain))
    quantization.quantize_(theirs, getattr(quantization, config)())
    wanted = plain(x).detach()
    apart = [float((layer(x).detach() - wanted).norm() / wanted.norm()) for layer in (held(kind, plain), theirs)]
    assert 0 < apart[0] < 0.02
    assert apart[0] == pytest.approx(apart[1], rel=0.2), "torchao's scales are a half of a level smaller"


def test_dynamic_layers_multiply_integers():
    layer, x = held(Int8DynamicLinear, linear(bias=False)), rows(7)
    exact = rounded_rows(x).double() @ layer.values().double().t()
    assert float((layer(x) - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


def test_a_row_is_rounded_by_itself():
    layer, x = held(Int8DynamicLinear), rows(4)
    other = x.clone()
    other[1:] *= 100  # another token, or another sample of the batch
    assert torch.equal(layer(x)[0], layer(other)[0])


@pytest.mark.parametrize("group", [32, 64])
def test_int4_weights_are_the_nearest_levels(group):
    plain = linear()
    layer = held(Int4WeightLinear, plain, group)
    apart = (layer.values() - plain.weight).abs().reshape(16, -1, group)
    assert bool((apart <= layer.weight_scale.unsqueeze(-1) * 0.5001).all())
    assert layer.weight.numel() * 2 == plain.weight.numel()
    assert all(part.unique().numel() <= 16 for part in layer.values().reshape(-1, group))


def test_int4_layers_are_what_tinygemm_computes():
    layer, x = held(Int4WeightLinear, linear(bias=False)), rows(3)
    codes = Int4WeightLinear.decode(
        {
            "weight": layer.weight,
            "weight_scale": torch.ones_like(layer.weight_scale),
            "weight_zero": torch.zeros_like(layer.weight_zero),
        },
        32,
    )
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
    scales = tinygemm_scales(layer.weight_scale, layer.weight_zero)
    found = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, 32, scales)
    assert torch.allclose(found, layer(x), atol=1e-5)


def test_zeros_stay_zeros():
    plain = linear()
    with torch.no_grad():
        plain.weight[:, ::3] = 0
    for kind in KINDS.values():
        assert bool((held(kind, plain).values()[:, ::3] == 0).all()), kind


def test_the_two_smallest_of_four_go():
    weight = torch.tensor([[1.0, -4, 3, 2, 5, 5, 5, 5], [0, 0, 0, 9, -1, -2, -3, -4]])
    gone = two_of_four(weight)
    assert gone.int().tolist() == [[1, 0, 0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1, 0, 0]]
    assert is_two_of_four(weight.masked_fill(gone, 0))
    assert not is_two_of_four(weight)
    assert not is_two_of_four(torch.zeros(2, 6)), "rows of other lengths have no groups"


@pytest.mark.parametrize("kind", KINDS.values())
def test_what_is_described_is_made_again(kind):
    layer, x = held(kind), rows(2)
    again = linear()
    again.weight = nn.Parameter(torch.zeros_like(layer.weight), requires_grad=layer.weight.is_floating_point())
    attach_stored(again, layer.to_dict())
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({"kind": "int2"}, linear),
        ({"group_size": 64}, linear),
        ({"kind": "int4_weight_only"}, linear),
        ({"kind": "int4_weight_only", "group_size": 48}, linear),
        ({"kind": "int4_weight_only", "group_size": 128}, linear),
        ({"dtype": "int8"}, linear),
        ({}, lambda: nn.Conv2d(3, 3, 3)),
        ({}, lambda: held(Int8WeightLinear)),
    ],
)
def test_a_damaged_description_is_refused(change, layer):
    with pytest.raises(StoreError):
        attach_stored(layer(), {**held(Int8WeightLinear).to_dict(), **change})


def test_stored_layers_become_plain_ones_again():
    model = nn.Sequential(held(Int8WeightLinear), nn.ReLU(), held(Int8WeightLinear, linear(8, 16)))
    x, names = rows(2), {"0.weight", "0.bias", "2.weight", "2.bias"}
    wanted = model(x)
    assert set(stored_layers(model)) == {"0", "2"}
    plain = restore(copy.deepcopy(model))
    assert torch.equal(plain(x), wanted)
    assert not stored_layers(plain)
    assert set(plain.state_dict()) == names
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_groups_divide_rows():
    assert group_size_of(linear().weight, Int4WeightLinear, 256) == 64
    assert group_size_of(linear().weight, Int4WeightLinear, 32) == 32
    assert group_size_of(linear(inputs=48).weight, Int4WeightLinear, 256) is None
    assert group_size_of(linear(inputs=6).weight, SemiStructuredLinear, 0) is None
    assert group_size_of(linear(inputs=6).weight, Int8WeightLinear, 0) == 0


def test_int4_is_refused_where_there_are_no_kernels():
    message = r"int4_weight_only needs a device with int4 kernels, and cpu has none .*: take int8_weight_only, or"
    with pytest.raises(CompressionError, match=message):
        require_kernel(Int4WeightLinear, torch.device("cpu"))
    require_kernel(Int8DynamicLinear, torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="these kernels need an NVIDIA GPU")
@pytest.mark.parametrize("kind", KINDS.values())
def test_gpu_kernels_compute_what_the_weight_says(kind):
    layer = held(kind, linear(64).to(torch.bfloat16)).cuda()
    if kind is SemiStructuredLinear:
        with torch.no_grad():
            layer.weight.masked_fill_(two_of_four(layer.weight), 0)
    x = rows(32).to("cuda", torch.bfloat16)
    wanted = nn.functional.linear(x, layer.values().to(torch.bfloat16), layer.bias)
    assert float((layer(x) - wanted).abs().max()) <= 0.03 * float(wanted.abs().max())
