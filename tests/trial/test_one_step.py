"""One algorithm at once: the model that is given stays, what comes back is what was measured."""

import pytest
import torch

import autocompress
from autocompress.compression.measure import measure
from autocompress.errors import ConfigError, ModuleError
from tests import scripts
from tests.scripts import VALIDATION, X, evaluate


@pytest.fixture
def model():
    made = scripts.trained()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    yield made
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in before.items())


def accuracy(model):
    return evaluate(model, VALIDATION)


def test_prune(model):
    state = torch.get_rng_state()
    found = autocompress.prune(model, "l2", 0.5, X[:1])
    assert torch.equal(torch.get_rng_state(), state)
    assert [found.model[0].out_features, found.model[2].out_features] == [16, 16]
    assert found.achieved_rate == pytest.approx(0.5)
    assert found.after == measure(found.model, (X[:1],))
    assert found.parameters_removed == pytest.approx(
        1 - sum(map(torch.numel, found.model.parameters())) / sum(map(torch.numel, model.parameters()))
    )
    assert 0.6 < found.macs_removed < 0.75
    assert not found.model.training
    assert found.accuracy is None
    assert str(found).startswith("l2 at rate 0.5: 68")


def test_prune_with_arguments_and_an_evaluation(model):
    found = autocompress.prune(model, "level", 0.5, X[:1], evaluate=accuracy)
    assert found.accuracy == accuracy(found.model)
    assert found.accuracy_before == accuracy(model)
    assert (found.model[2].weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert "(uncompressed 0.9" in str(found)
    everywhere = autocompress.prune(model, "l2", 0.5, X[:1], allocation="global")
    assert everywhere.model[0].out_features != 16


def test_rate_0_changes_nothing(model):
    found = autocompress.prune(model, "l2", 0, X[:1])
    assert found.parameters_removed == 0
    assert torch.equal(found.model(X), model(X))


@pytest.mark.slow
def test_quantize(model):
    """Ranges are those of the data; without any, of the example inputs."""
    found = autocompress.quantize(model, calibration_data=[X[:100]], evaluate=accuracy)
    assert found.requested_rate is None
    assert found.achieved_rate == pytest.approx(0.75, abs=0.01)
    assert found.accuracy == pytest.approx(found.accuracy_before, abs=0.05)
    assert torch.allclose(found.model(X[:10]), model(X[:10]), atol=0.5)
    coarse = autocompress.quantize(model, "dorefa", X[:1])
    assert coarse.simulated
    assert torch.equal(autocompress.quantize(model, "qat", X[:100]).model(X), found.model(X))


def test_sensitivity(model):
    found = autocompress.sensitivity(model, "l2", X[:200])
    assert {layer for each in found.couplings for layer in each.layers} == {"0", "2"}
    first = found.of("0")
    assert first.at(1.0) == 0 < first.at(0.5) < first.at(0.1)
    assert found.samples == 200

    def loss(model):
        return torch.nn.functional.cross_entropy(model(X), scripts.Y)

    by_loss = autocompress.sensitivity(model, calibration_data=[X], loss=loss)
    assert by_loss.of("0").damage != first.damage


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda net: autocompress.prune(net, "qat", 0.5, X[:1]),
            "algorithm of prune must be a pruner; 'qat' is a quant",
        ),
        (lambda net: autocompress.quantize(net, "l2", X[:1]), "algorithm of quantize must be a quantizer; 'l2' is a p"),
        (lambda net: autocompress.sensitivity(net, "level", X[:1]), "allocation"),
        (lambda net: autocompress.prune(net, "l2", 50, X[:1]), r"rate must be in \[0, 0.95\]; got 50"),
        (lambda net: autocompress.prune(net, "l2", "half", X[:1]), r"rate must be a number; got 'half'"),
        (lambda net: autocompress.prune(net, "l2", 0.5), "example_inputs or calibration_data must be given"),
        (lambda net: autocompress.prune(net, "l2", 0.5, X[:1], alocation="global"), "'alocation'"),
        (lambda net: autocompress.prune("net", "l2", 0.5, X[:1]), "model must be a Module; got 'net'"),
        (
            lambda net: autocompress.prune(net, "l2", 0.5, torch.ones(1, 3)),
            "example_inputs must be .* that model.. runs",
        ),
    ],
)
def test_wrong_arguments(call, sentence):
    with pytest.raises((ConfigError, ModuleError), match=sentence) as refused:
        call(scripts.trained())
    assert "\n" not in str(refused.value)


def test_algorithms_that_look_at_data_need_some(model):
    with pytest.raises(ModuleError, match=r"^algorithm 'apoz' needs calibration_data or train_epoch; not given$"):
        autocompress.prune(model, "apoz", 0.5, X[:1])
    assert autocompress.prune(model, "apoz", 0.5, calibration_data=[X[:50]]).parameters_removed > 0.5
    with pytest.raises(ModuleError, match=r"^algorithm 'taylorfo' needs train_epoch, optimizer, criterion; not given$"):
        autocompress.prune(model, "taylorfo", 0.5, X[:1])

    def train_epoch(model, optimizer, criterion):
        for x, y in scripts.TRAINING:
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    training = {"train_epoch": train_epoch, "optimizer": torch.optim.SGD, "criterion": torch.nn.CrossEntropyLoss()}
    found = autocompress.prune(model, "taylorfo", 0.5, X[:1], **training)
    assert found.model[0].out_features == 16
