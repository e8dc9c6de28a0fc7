"""An int8 model's graph as JSON: the same graph again, and nothing but PyTorch's operators."""

import copy
import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.measure import layer_sizes
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.errors import ModuleError, StoreError
from autocompress.layer_selector import LayerRule

from ..nets import IMAGE, build


@pytest.fixture(scope="module")
def model():
    rules = (LayerRule(("default",), quant_types=("weight", "output")),)
    compression = compressor("qat").compress(build("residual"), CompressionRequest("qat", rules, IMAGE))
    return compression.finish(compression.model)


def test_there_and_back_through_json(model):
    description = json.loads(json.dumps(model.to_dict()))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    again = Int8Model.from_dict(description, zeros)
    assert not torch.equal(again(IMAGE[0]), model(IMAGE[0])), "without its tensors"
    again = Int8Model.from_dict(description, model.state_dict())
    assert torch.equal(again(IMAGE[0]), model(IMAGE[0]))
    assert again.to_dict() == model.to_dict()


def test_it_takes_other_batches_and_stays_in_eval_mode(model):
    x = torch.cat([IMAGE[0]] * 5)
    assert torch.allclose(model.train()(x)[:1], model(IMAGE[0]), atol=1e-6)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_its_weights_are_bytes(model):
    kinds = [tensor.dtype for tensor in model.weights() if tensor.dim() > 1]
    assert kinds
    assert set(kinds) == {torch.int8}


class Labelled(nn.Module):
    """Gives an object, and takes arguments that are rarely given."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, ids=None, mask=None, scale=None):
        scores = self.head(torch.relu(self.first(ids if mask is None else ids * mask)))
        return Output(scores if scale is None else scores * scale)


@dataclass
class Output:
    scores: torch.Tensor
    loss: torch.Tensor | None = None


def test_arguments_and_outputs_have_names():
    rules, ids, scale = (
        (LayerRule(("default",), quant_types=("weight", "output")),),
        torch.randn(2, 4),
        torch.ones(2, 1),
    )
    compression = compressor("qat").compress(Labelled(), CompressionRequest("qat", rules, (ids, None, scale)))
    trained = compression.model.eval()
    finished = compression.finish(trained)
    loaded = Int8Model.from_dict(json.loads(json.dumps(finished.to_dict())), finished.state_dict())
    for model in (finished, loaded):
        answer = model(scale=scale, ids=ids)
        assert torch.equal(answer.scores, model(ids, None, scale)["scores"])
        assert torch.equal(answer[0], answer.scores)
        assert model(scale=torch.ones(5, 1), ids=torch.randn(5, 4)).scores.shape == (5, 2)
        with pytest.raises(AttributeError, match="the model's outputs are scores; there is no 'logits'"):
            answer.logits  # noqa: B018
        with pytest.raises(ModuleError, match="has, ids, mask, scale; it was given 'labels' too: leave it out"):
            model(ids=ids, labels=scale)


def node(description, target="add"):
    return next(each for each in description["nodes"] if target in str(each.get("target")))


@pytest.mark.parametrize(
    "change",
    [
        lambda found: node(found).update(target="os.system"),
        lambda found: node(found).update(target="torch.ops.aten.add.Tensor"),
        lambda found: node(found).update(target="aten.no_such_operator.default"),
        lambda found: node(found).update(op="call_method"),
        lambda found: node(found).update(op="call_module"),
        lambda found: node(found).update(args=[{"node": "nowhere"}]),
        lambda found: node(found).update(args=[{"torch": "dtype:load"}]),
        lambda found: node(found).pop("kwargs"),
        lambda found: found.pop("tensors"),
        lambda found: found.update(in_spec="[2, {}]"),
        lambda found: next(iter(found["tensors"].values())).update(dtype="load"),
        lambda found: next(iter(found["tensors"].values())).update(shape=[-1]),
    ],
)
def test_a_damaged_graph_is_refused(model, change):
    description = copy.deepcopy(model.to_dict())
    change(description)
    with pytest.raises(StoreError, match="the checkpoint's int8 graph cannot be built: "):
        Int8Model.from_dict(description, model.state_dict())


def test_its_layers_are_those_of_the_model(model):
    """A layer with a bias is named in the graph, others are found by their order."""
    before = layer_sizes(build("residual").eval(), IMAGE)
    after = {layer.name: layer for layer in layer_sizes(model, IMAGE, before)}
    assert {layer.name for layer in before if "Norm" not in layer.kind} == after.keys()
    for layer in before:
        if "Norm" not in layer.kind:
            assert after[layer.name].macs == layer.macs
            assert 0.8 * layer.parameters < after[layer.name].parameters <= layer.parameters + 64, "small weights are 0"
