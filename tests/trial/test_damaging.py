"""Output layers, and what is left of a model without them."""

import copy

import pytest
import torch
from torch import nn

from autocompress.trial.preflight.damaging import damage, most_outputs, output_layers


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.body(x))
        return {"one": self.one(x), "two": [self.two(x)]}


class Recurrent(nn.Module):
    """Channels cannot be followed through it; it has a parameter of its own; the head is not the last that was made."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 3)
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.token = nn.Parameter(torch.ones(1, 1, 4))

    def forward(self, x):
        return self.head(self.gru(x + self.token)[0][:, -1])


class EndsWithLstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


def weighted():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.utils.parametrizations.weight_norm(model[2])
    return model


def transposed():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 3, 3))


CASES = {
    "linear": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (2, 4), ["2"]),
    "two heads": (TwoHeads, (2, 4), ["one", "two"]),
    "softmax behind": (lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Softmax(1)), (2, 4), ["1"]),
    "transposed": (transposed, (1, 2, 8, 8), ["2"]),
    "recurrent": (Recurrent, (2, 5, 4), ["head"]),
    "ends with LSTM": (EndsWithLstm, (2, 5, 4), ["lstm"]),
    "made of other parameters": (weighted, (2, 4), ["2"]),
}


def outputs(answer):
    if isinstance(answer, dict):
        return [answer["one"], *answer["two"]]
    return [answer]


@pytest.mark.parametrize("name", list(CASES))
def test_output_layers_are_found_and_damaged(name):
    build, shape, layers = CASES[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert output_layers(model, (x,)) == layers
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
    assert not any(part._forward_hooks for part in model.modules())
    zeroed, shuffled = copy.deepcopy(model), copy.deepcopy(model)
    damage(zeroed, layers, 0)
    damage(shuffled, layers, 1)
    with torch.no_grad():
        for before, without, other in zip(*(outputs(each(x)) for each in (model, zeroed, shuffled)), strict=True):
            same = without - (without[:1] if without.dim() == 2 else 0)
            assert same.abs().max() == 0, "it always answers the same"
            assert other.shape == before.shape
            assert not torch.allclose(other, before)


def test_interchanged_outputs_are_those_of_before_in_another_order():
    torch.manual_seed(0)
    model, x = CASES["linear"][0](), torch.randn(5, 4)
    answers = model(x)
    damage(model, ["2"], 2)
    assert torch.equal(model(x), answers.roll(2, 1))
    assert most_outputs(model, ["2"]) == 3


def test_a_single_output_is_negated():
    model, x = nn.Linear(4, 1), torch.randn(5, 4)
    answers = model(x)
    damage(model, [""], 1)
    assert torch.equal(model(x), -answers)
