"""The closed list of operators."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from autocompress.compression.quantization import operators
from autocompress.compression.quantization.operators import (
    accepts,
    is_random,
    named_operator,
    operator_name,
    without_uninitialized,
)

aten = torch.ops.aten


@pytest.mark.parametrize(
    "name", ["aten.conv2d.default", "aten.add.Tensor", "aten.relu_.default", "aten.sym_size.int", "getitem"]
)
def test_there_and_back(name):
    assert operator_name(named_operator(name)) == name


@pytest.mark.parametrize(
    "name",
    [
        "aten.from_file.default",
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "aten.as_strided.default",
        "aten.rand.default",
        "aten.empty.memory_format",
        "aten.empty_like.default",
        "aten.new_empty.default",
        "aten.bernoulli.p",
        "aten.add.out",
        "aten.sort.values",
        "aten.add.__class__",
        "aten.__class__.default",
        "aten.add",
        "aten.add.Tensor.x",
        "prim.Print.default",
        "profiler._record_function_enter.default",
        "pow",
        "",
    ],
)
def test_others_are_not_in_it(name):
    assert named_operator(name) is None


def test_of_all_names_none_writes_a_result_elsewhere_or_draws_unless_told():
    known = operators._KNOWN["aten"]
    for name in sorted(known):
        packet = getattr(aten, name, None)
        for overload in packet.overloads() if packet is not None else ():
            found = named_operator(f"aten.{name}.{overload}")
            if found is None:
                continue
            assert not any(argument.is_out for argument in found._schema.arguments)
            if any("Generator" in str(argument.type) for argument in found._schema.arguments):
                assert str(found) in ("aten.rrelu.default", "aten.rrelu_.default"), "of which training is refused"


@pytest.mark.parametrize(
    ("target", "keywords", "name", "left"),
    [
        (aten.empty.memory_format, {"dtype": None, "memory_format": None}, "aten.zeros.default", {"dtype": None}),
        (aten.empty_like.default, {"memory_format": None}, "aten.zeros_like.default", {"memory_format": None}),
        (aten.new_empty.default, {"dtype": None}, "aten.new_zeros.default", {"dtype": None}),
        (aten.add.Tensor, {"alpha": 1}, "aten.add.Tensor", {"alpha": 1}),
    ],
)
def test_memory_that_nobody_has_written_to_is_written_as_zeros(target, keywords, name, left):
    found, given = without_uninitialized(target, keywords)
    assert (operator_name(target), operator_name(found), given) == (name, name, left)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")])
def test_a_scale_that_leads_out_of_an_image_is_refused(scale):
    graph = fx.Graph()
    image = graph.placeholder("x")
    assert accepts(aten.upsample_nearest1d.default, [image, [9], 2.0], {})
    assert accepts(aten.upsample_nearest1d.default, [image, [9]], {"scales": None})
    assert accepts(aten.upsample_bilinear2d.vec, [image, None, False, [2.0, 0.5]], {})
    assert not accepts(aten.upsample_nearest1d.default, [image, [9], scale], {})
    assert not accepts(aten.upsample_nearest1d.default, [image, [9]], {"scales": scale})
    assert not accepts(aten.upsample_nearest1d.default, [image, [9], image], {})
    assert not accepts(aten.upsample_bilinear2d.vec, [image, None, False, [2.0, scale]], {})


def node():
    return fx.Graph().placeholder("x")


@pytest.mark.parametrize(
    ("target", "arguments", "keywords", "right"),
    [
        (aten.add.Tensor, (node(), node()), {"alpha": 2}, True),
        (aten.add_.Tensor, (node(), 1), {}, True),
        (aten.add.Tensor, (node(), node(), node()), {}, False),
        (aten.add.Tensor, (node(),), {"nothing": 1}, False),
        (aten.add.Tensor, (node(), node()), {"other": node()}, False),
        (aten.to.dtype, (node(), torch.float16), {}, True),
        (aten.to.dtype, (node(), 5), {}, False),
        (aten.to.dtype, (node(), node()), {}, False),
        (aten.view.default, (node(), [node(), 3]), {}, True),
        (aten.view.default, (node(), ["a"]), {}, False),
        (aten.index.Tensor, (node(), [None, node()]), {}, True),
        (aten.conv2d.default, (node(), node(), None, [1, 1]), {}, True),
        (aten.clone.default, (node(),), {"memory_format": torch.channels_last}, True),
        (aten.clone.default, (node(),), {"memory_format": 2}, False),
        (aten.clone.default, (node(),), {"memory_format": torch.float32}, False),
    ],
)
def test_arguments_are_of_the_kinds_in_the_schema(target, arguments, keywords, right):
    assert accepts(target, arguments, keywords) is right


def test_a_number_for_a_type_would_crash_the_process():
    """torch takes any number for a type: `test_arguments...` keeps it from getting there."""
    import torchao.quantization.pt2e  # noqa: F401 - registers the operators

    quantize = named_operator("quantized_decomposed.quantize_per_tensor.default")
    assert accepts(quantize, (node(), 0.1, 0, 0, 255, torch.uint8), {})
    for wrong in (0, 1 << 31, torch.strided, torch.channels_last, None, node()):
        assert not accepts(quantize, (node(), 0.1, 0, 0, 255, wrong), {})


def test_layers_in_training_mode_draw():
    assert is_random(aten.dropout.default, (node(), 0.5, True), {})
    assert not is_random(aten.dropout.default, (node(), 0.5, False), {})
    assert is_random(aten.rrelu.default, (node(), 0.1, 0.3, True), {})
    assert is_random(aten.scaled_dot_product_attention.default, (node(),) * 3, {"dropout_p": 0.1})
    statistics = (node(), None, None, None, None, True, 0.1, 1e-5, False)
    assert not is_random(aten.batch_norm.default, statistics, {}), (
        "without running statistics it is the same in both modes"
    )
