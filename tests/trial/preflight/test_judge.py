"""Output layers, and what is left of a model without them."""

import copy
import random
import re

import pytest
import torch
from torch import nn

from autocompress import AccuracyBudget
from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation
from autocompress.trial.preflight.judge import Judge, Names, damage, most_outputs, output_layers


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


NAMES = Names("M.evaluator()", "M.higher_is_better")


def judge(percent=1.0, *, higher=True, absolute=None):
    return Judge(AccuracyBudget(None if absolute else percent, absolute), higher, NAMES)


RESPONSES = [  # accuracy, zeroed, interchanged, higher is better, what is wrong
    (0.99, 0.1, (0.02, 0.01), True, None),
    (0.056, 2.16, (8.0, 9.0), True, "higher_is_better must be the direction.*0.056 .* zeroed 2.16.*= False"),
    (0.056, 2.16, (8.0, 9.0), False, None),
    (0.95, 0.1, (0.02,), False, "higher_is_better must be the direction.*= True"),
    (0.95, 0.1, (), False, "higher_is_better must be the direction"),
    (-0.05, -2.3, (-9.0,), True, None),
    (-0.05, -2.3, (-9.0,), False, "higher_is_better must be the direction"),
    (0.9, 0.9, (0.9, 0.9), True, "must depend on the model that it is given"),
    (0.9, 0.3, (0.9, 0.9), True, None),  # the angles of an embedding
    (2.31, 2.3026, (2.33, 2.29), False, r"train model\(\) first, check M.higher_is_better"),
    (0.112, 0.1, (0.098, 0.108), True, r"model\(\) must be trained: .* samples can tell"),
    (11.2, 10.0, (9.8, 10.8), True, r"model\(\) must be trained"),
    (0.105, 0.1, (0.08, 0.13), True, r"model\(\) must be trained: .* which is better"),
    (0.96, 0.95, (0.05,), True, None),  # an imbalanced data set
    (
        0.955,
        0.95,
        (0.05,),
        True,
        "always answers the same must be outside the budget.*0.955 .* 0.95, .*0.94545",
    ),
    (30.5, 12.0, (30.51,), True, None),  # colours of grey images
    (0.8, None, (), True, None),
]


@pytest.mark.parametrize("case", RESPONSES)
def test_responses(case):
    accuracy, zeroed, interchanged, higher, message = case
    if message is None:
        judge(higher=higher).require_response([accuracy, accuracy], zeroed, interchanged, 1000)
        return
    with pytest.raises(ModuleError, match=message):
        judge(higher=higher).require_response([accuracy, accuracy], zeroed, interchanged, 1000)


def test_small_validation_sets_are_not_taken_for_chance():
    judge().require_response([1.0, 1.0], 0.25, (0.25, 0.5), 4)
    judge().require_response([0.9, 0.9], 0.5, (0.1,), 40)


def test_chance_is_found_and_skill_is_not_taken_for_it():
    """Over many models that guess among ten classes, and as many that know a bit more than that."""
    draw = random.Random(0)

    def share(p, n=500):
        return sum(draw.random() < p for _ in range(n)) / n

    def refused(p):
        try:
            judge().require_response([share(p)], share(0.1), [share(0.1) for _ in range(5)], 500)
        except ModuleError:
            return True
        return False

    assert sum(refused(0.1) for _ in range(200)) >= 198
    assert not any(refused(0.3) for _ in range(200))


def test_an_accuracy_of_0_has_no_relative_budget():
    with pytest.raises(ModuleError, match="another accuracy than 0"):
        judge().require_accuracy(0.0)
    judge(absolute=0.1).require_accuracy(0.0)


@pytest.mark.parametrize(
    ("accuracies", "warned"), [((0.9, 0.9), False), ((0.9, 0.90001), False), ((0.9, 0.9001), True)]
)
def test_noise_below_the_budget(accuracies, warned):
    assert (judge().require_repeatable(accuracies) is not None) == warned


def test_noise_as_large_as_the_budget():
    message = (
        r"M.evaluator.. must give the same model the same accuracy .* 0.9636 and 0.9667 in turn, a difference of "
        "0.0031, where the budget tolerates a loss of 0.00096"
    )
    with pytest.raises(ModuleError, match=message):
        judge(0.1).require_repeatable((0.9636, 0.9667))
    with pytest.raises(ModuleError, match=r"0.9 and 0.9000001 in turn"):
        judge(0.0).require_repeatable((0.9, 0.9000001))


VALUES = tuple([1.0] * 90 + [0.0] * 10)


@pytest.mark.parametrize(
    ("evaluation", "samples", "budget", "warning"),
    [
        (
            Evaluation(0.9),
            100,
            {},
            "the accuracy 0.9 of 100 samples has a standard error of 0.03, .* a loss of 0.009: ",
        ),
        (Evaluation(90.0), 100, {}, "the accuracy 90 of 100 samples has a standard error of 3, .* a loss of 0.9: "),
        (Evaluation(0.9), 100, {"absolute": 0.02}, "and the budget tolerates a loss of 0.02: "),
        (Evaluation(0.9), 100, {"absolute": 0.04}, None),
        (Evaluation(0.9), 2000, {}, None),
        (Evaluation(0.9), 0, {}, None),  # the number of samples is not known
        (Evaluation(0.90123), 100, {}, None),  # no share of right answers
        (Evaluation(1.0), 100, {}, None),
        (Evaluation(0.9, VALUES), 100, {}, None),  # is compared sample by sample
        (Evaluation(0.9, VALUES), 0, {}, None),
        (Evaluation(0.6, (0.3, 0.9)), 4000, {}, r"returns 2 values, and 4,000 samples go through the model: .* each"),
    ],
)
def test_what_is_warned_of_in_the_samples(evaluation, samples, budget, warning):
    found = judge(**budget).sampling_warnings(evaluation, samples)
    assert len(found) == (warning is not None), found
    assert warning is None or re.search(warning, found[0]), found
