"""Accuracies in closed form, and modules that have them."""

import pytest
import torch

from autocompress.testing.fakes import CurveModule, cliff, flat, knee, never, noisy


def test_curves():
    edge = cliff(0.6, epochs_needed=2)
    assert [edge(rate, epochs) for rate, epochs in ((0, 0), (0.6, 2), (0.6, 1), (0.61, 9))] == [0.9, 0.9, 0.5, 0.5]
    assert knee(0.5)(0.5, 0) == pytest.approx(0.65)
    assert knee(0.5)(0.0, 0) == pytest.approx(0.9, abs=1e-6)
    assert knee(0.5)(1.0, 0) == pytest.approx(0.4, abs=1e-6)
    assert flat(0.7)(0.99, 5) == 0.7
    assert (never()(0, 0), never()(0, 1), never()(0.1, 0)) == (0.9, 0.1, 0.1)
    assert [noisy(flat(0.5), [0.1, -0.1])(0.3, epochs) for epochs in range(3)] == pytest.approx([0.6, 0.4, 0.6])


class Cliff(CurveModule):
    curve = staticmethod(cliff(0.5, epochs_needed=1))


def narrowed(width):
    model = Cliff.model()
    model.hidden = torch.nn.Linear(4, width)
    model.head = torch.nn.Linear(width, 2)
    return model


def test_the_accuracy_is_that_of_the_models_rate_and_epochs():
    evaluate = Cliff.evaluator()
    assert evaluate(Cliff.model()) == 0.9
    half = narrowed(200)
    assert Cliff.rate(half) == 0.5
    assert evaluate(half) == 0.5, "not yet trained"
    Cliff.train_epoch(half, torch.optim.SGD(half.parameters(), lr=0.1), None, 0)
    assert evaluate(half) == 0.9
    assert evaluate(narrowed(199)) == 0.5


def test_zeros_count_as_a_rate():
    model = Cliff.model()
    with torch.no_grad():
        model.hidden.weight[:100] = 0
    assert Cliff.rate(model) == 0.25


def test_without_its_output_layer_it_is_worse():
    model = Cliff.model()
    torch.nn.init.zeros_(model.head.weight)
    assert Cliff.evaluator()(model) == pytest.approx(-0.1)


def test_the_model_is_the_same_each_time():
    one, other = Cliff.model().state_dict(), Cliff.model().state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
