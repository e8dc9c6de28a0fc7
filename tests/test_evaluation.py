"""What an evaluator may return, and what its error says otherwise."""

import math

import numpy as np
import pytest
import torch

from autocompress.errors import ModuleError
from autocompress.evaluation import Evaluation, read_evaluation

HITS = [True, False, True, True]


@pytest.mark.parametrize(
    "answer",
    [
        HITS,
        [1, 0, 1, 1],
        [1.0, 0.0, np.float32(1), torch.tensor(1.0)],
        [torch.tensor(hit) for hit in HITS],
        torch.tensor(HITS),
        torch.tensor([1, 0, 1, 1], dtype=torch.uint8),
        torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.bfloat16, requires_grad=True),
        np.array(HITS),
        np.array([1.0, 0.0, 1.0, 1.0], dtype=np.float16),
    ],
)
def test_one_value_for_each_sample(answer):
    found = read_evaluation(answer)
    assert found == Evaluation(0.75, (1.0, 0.0, 1.0, 1.0))
    assert {type(value) for value in found.values} == {float}


def test_the_mean_is_that_of_double_precision():
    values = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    assert read_evaluation(values).accuracy == pytest.approx(values.double().mean().item(), rel=1e-15)
    assert read_evaluation([True] * 7 + [False] * 3).accuracy == 0.7, "as correct / total is"


def test_losses_may_be_negative():
    assert read_evaluation([-0.5, -1.5]) == Evaluation(-1.0, (-0.5, -1.5))


def test_a_number_has_no_values():
    assert read_evaluation(torch.tensor(0.75)) == Evaluation(0.75)


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ([], r"\[\] \(list\): it holds no sample"),
        (torch.ones(0), r"tensor\(\[\]\) \(Tensor\): it holds no sample"),
        (torch.ones(2, 3), r"\(Tensor\) of shape \(2, 3\): return one value for each sample"),
        (np.ones((4, 1)), r"\(ndarray\) of shape \(4, 1\): return one value for each sample"),
        (torch.tensor([1.0, math.nan]), r"\(Tensor\): sample 1 has nan \(float\)"),
        (np.array([np.inf, 1]), r"\(ndarray\): sample 0 has inf \(float\)"),
        (["0.5", 1], r"\(list\): sample 0 has '0\.5' \(str\)"),
        ([0.5, None], r"\(list\): sample 1 has None \(NoneType\)"),
        ([[1, 0], [1, 1]], r"\(list\): sample 0 has \[1, 0\] \(list\)"),
        (np.array(["a", "b"]), r"\(ndarray\): sample 0 has 'a' \(str\)"),
        (torch.tensor([1 + 2j]), r"\(Tensor\): sample 0 has \(1\+2j\) \(complex\)"),
        ((0.3, 0.9), r"\(0\.3, 0\.9\) \(tuple\)"),  # such as loss and accuracy
        ({"accuracy": 0.9}, r"\{'accuracy': 0\.9\} \(dict\)"),
        ("0.9", r"'0\.9' \(str\)"),
        (None, r"None \(NoneType\): does it lack its return statement\?"),
        (len, r".*: evaluator\(\) itself returns the function of the model"),
        (math.nan, r"nan \(float\)"),
    ],
)
def test_everything_else_is_refused(answer, end):
    rule = r"evaluator\(\) must return a finite number, or a 1-D tensor, array or list of one for each sample; got "
    with pytest.raises(ModuleError, match=f"^{rule}.*{end}$"):
        read_evaluation(answer)


def test_another_function_is_named():
    with pytest.raises(ModuleError, match=r"^validate_fn must return a finite number"):
        read_evaluation(None, "validate_fn")
