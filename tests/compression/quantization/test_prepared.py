"""Models prepared for quantization-aware training: what is random, what is constant, what is refused."""

import copy

import pytest
import torch
from torch import nn

from autocompress.errors import CompressionError
from tests.compression.quantization.support import (
    AsksForTraining,
    Dropped,
    Functional,
    Norms,
    Recurrent,
    TwoOutputs,
    levels,
    quantized,
    stochastic_depth,
    train,
)

from ..nets import IMAGE


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


def test_other_outputs_in_training_are_told():
    message = r"in training mode it has outputs of other shapes, \[\(2, 5\), \(2, 5\)\] for \[\(2, 5\)\]"
    with pytest.raises(CompressionError, match=message):
        quantized(TwoOutputs())


def test_layers_that_are_not_called_are_refused():
    with pytest.raises(CompressionError, match="torchao quantizes none of never"):
        quantized(Functional())
