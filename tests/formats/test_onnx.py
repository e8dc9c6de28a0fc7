"""ONNX files, read by onnx and run by onnxruntime."""

import onnx
import pytest
import torch
from torch import nn

from autocompress.compression.model_state import forward_outputs
from autocompress.compression.quantization.stored_linear import KINDS, convert
from autocompress.compression.tracing import export_graph
from autocompress.formats.onnx import onnx_runner, onnx_weights, write_onnx


class Answers(nn.Module):
    """Two outputs by name; every second weight of the first layer is zero."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 2)
        with torch.no_grad():
            self.body.weight.view(-1)[::2] = 0

    def forward(self, sample):
        hidden = torch.relu(self.body(sample))
        return {"logits": self.head(hidden), "hidden": hidden}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    torch.manual_seed(0)
    model, path = Answers().eval(), tmp_path_factory.mktemp("onnx") / "model.onnx"
    return model, path, write_onnx(export_graph(model, (torch.ones(1, 4),)), path)


def test_names_are_those_of_the_model(written):
    _, path, runner = written
    graph = onnx.load(path).graph
    assert [each.name for each in graph.input] == ["sample"]
    assert [each.name for each in graph.output] == ["logits", "hidden"]
    assert [size.dim_param or size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == ["batch", 4]
    assert runner.startswith("onnxruntime ")


@pytest.mark.parametrize("optimized", [False, True])
def test_it_computes_the_same_for_other_batches(written, optimized):
    model, path, _ = written
    x = torch.randn(5, 4)
    logits, hidden = onnx_runner(path, optimized=optimized)((x,))
    expected = model(x)
    assert torch.allclose(logits, expected["logits"], atol=1e-6)
    assert torch.allclose(hidden, expected["hidden"], atol=1e-6)


def test_weights_and_zeros_are_counted(written):
    _, path, _ = written
    assert onnx_weights(path) == (4 * 6 + 6 * 2, 12)


def test_what_only_debugging_needs_is_not_in_the_file(written):
    _, path, _ = written
    assert not any(node.metadata_props or node.doc_string for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    ("kind", "operator"),
    [("int8_dynamic", "MatMulInteger"), ("int8_weight_only", "DequantizeLinear"), ("int4_weight_only", None)],
)
def test_stored_weights_stay_few_bits_and_decide_the_same(kind, operator, tmp_path):
    torch.manual_seed(0)
    model, path = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)).eval(), tmp_path / "model.onnx"
    for layer in (model[0], model[2]):
        convert(layer, KINDS[kind], layer.weight, 32 if KINDS[kind].GROUPED else 0)
    inputs = (torch.randn(200, 64),)
    write_onnx(export_graph(model, inputs), path)
    graph = onnx.load(path).graph
    assert operator is None or sum(node.op_type == operator for node in graph.node) == 2
    kinds = {each.data_type for each in graph.initializer if len(each.dims) > 1 and each.dims[0] * each.dims[1] >= 320}
    assert kinds == {onnx.TensorProto.INT8 if operator else onnx.TensorProto.FLOAT}, "ONNX's optimizer unpacks int4"
    (wanted,), (found,) = forward_outputs(model, inputs), onnx_runner(path)(inputs)
    assert float((wanted - found).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert torch.equal(wanted.argmax(1), found.argmax(1))
