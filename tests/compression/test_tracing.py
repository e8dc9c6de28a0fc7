"""Models as graphs of operators, for batches of any size where the model takes them."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from autocompress.compression.tracing import (
    batch_symbol,
    dynamic_batch_shapes,
    dynamic_batches,
    export_graph,
    plain_outputs,
    triple_batch,
    without_batch_of_one,
)
from autocompress.errors import CompressionError

IMAGE = torch.ones(1)


class Fixed(nn.Module):
    """Computes with the batch's size."""

    def forward(self, x):
        return x.reshape(4, 3) * 2


class Untraceable(nn.Module):
    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


def test_a_graph_computes_the_same_for_batches_of_other_sizes():
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    program = export_graph(model, (torch.ones(1, 4),))
    assert model.training, "its mode is as it was"
    assert dynamic_batches(program) == [True]
    assert batch_symbol(program)
    x = torch.randn(7, 4)
    assert torch.allclose(program.module()(x), model.eval()(x))


def test_a_batch_that_is_part_of_the_model_is_fixed():
    program = export_graph(Fixed(), (torch.ones(4, 3),))
    assert dynamic_batches(program) == [False]
    assert batch_symbol(program) is None


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(CompressionError, match=r"torch\.export must be able to trace the model; "):
        export_graph(Untraceable(), (torch.ones(1, 4),))


def test_batches_of_one_are_doubled_and_free_ones_tripled():
    one, two, number = torch.arange(3.0)[None], torch.ones(2, 3), 5
    doubled = without_batch_of_one((one, two, number))
    assert torch.equal(doubled[0], torch.cat([one, one]))
    assert doubled[1:] == (two, number)
    assert dynamic_batch_shapes(nn.Linear(3, 1), (one, number)) == ({0: torch.export.Dim.AUTO}, None)
    larger = triple_batch((one, two), [True, False])
    assert larger[0].shape == (3, 3)
    assert larger[1] is two


@dataclass
class Output:
    scores: torch.Tensor
    loss: torch.Tensor | None = None
    task: str = "classify"


class Answers(OrderedDict):
    """As Hugging Face's ModelOutput: a mapping whose entries are attributes."""


class Giving(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.layer, self.outputs = nn.Linear(3, 2), outputs

    def forward(self, x):
        return self.outputs(self.layer(x))


@pytest.mark.parametrize(
    "outputs",
    [
        lambda y: Output(y),
        lambda y: Answers(scores=y, task="classify", count=3),
        lambda y: {"scores": y, "task": "classify", "hidden": None},
    ],
)
def test_outputs_are_tensors_by_name_whatever_their_class_is(outputs):
    model, x = Giving(outputs), torch.randn(5, 3)
    found = export_graph(model, (x[:1],)).module()(x)
    assert type(found) is dict
    assert list(found) == ["scores"]
    assert torch.allclose(found["scores"], model.layer(x))
    assert type(model(x)) is type(outputs(x)), "the model is as it was"


def test_outputs_without_names_keep_their_places():
    assert plain_outputs(("text", IMAGE, [None, IMAGE], 3)) == (IMAGE, [IMAGE])
    assert plain_outputs({"text": "a", "none": None}) is None


@dataclass
class Pair:
    left: torch.Tensor
    right: list[torch.Tensor]
    name: str = ""


class OfPairs(nn.Module):
    def forward(self, pair: Pair) -> torch.Tensor:
        assert isinstance(pair, Pair)
        return pair.left @ pair.right[0].T


def test_a_dataclass_is_an_input_with_a_free_batch():
    inputs = (Pair(torch.ones(2, 3), [torch.ones(4, 3)]),)
    program = export_graph(OfPairs(), inputs)
    assert dynamic_batches(program)[:2] == [True, True]
    larger = (Pair(torch.ones(5, 3), [torch.ones(7, 3)]),)
    assert program.module()(*larger).shape == (5, 7)


class AnyNumber(nn.Module):
    def forward(self, first, *others):
        return first + sum(others)


def test_a_model_of_any_number_of_inputs_has_a_free_batch():
    x = torch.ones(1, 3)
    program = export_graph(AnyNumber(), (x, x, x))
    assert dynamic_batches(program) == [True] * 3
    assert program.module()(*[torch.ones(4, 3)] * 3).shape == (4, 3)
