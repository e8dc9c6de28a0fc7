"""What an int8 model may take, give and consist of is said before it is trained."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from autocompress.compression.base import CompressionRequest, compressor
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.errors import CompressionError
from autocompress.layer_selector import LayerRule

RULES = (LayerRule(("default",), quant_types=("weight", "output")),)
X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
Pair = namedtuple("Pair", "first second")


class Net(nn.Module):
    def __init__(self, out):
        super().__init__()
        self.layer, self.out = nn.Linear(8, 4), out

    def forward(self, x):
        return self.out(self.layer(x))


def quantized(out):
    model = Net(out).eval()
    compression = compressor("qat").compress(model, CompressionRequest("qat", RULES, (X,)))
    return compression.finish(compression.model)


@pytest.mark.parametrize(
    "out",
    [
        lambda y: (y, [y + 1, {"b": y, "a": y * 2}]),
        lambda y: OrderedDict(out=y, aux=y + 1),
        lambda y: y.masked_fill(y > 100, float("-inf")),
    ],
)
def test_containers_come_back(out):
    model = quantized(out)
    again = Int8Model.from_dict(model.to_dict(), model.state_dict())
    wanted, found = model(X), again(X)
    assert type(found) is type(wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_memory_that_is_filled_afterwards_comes_back():
    model = quantized(lambda y: y + torch.empty_like(y).fill_(2.0) + y.new_empty(y.shape).zero_())
    again = Int8Model.from_dict(model.to_dict(), model.state_dict())
    assert "empty" not in str(model.to_dict())
    torch.testing.assert_close(again(X), model(X), rtol=0, atol=0)


class Named(nn.Module):
    """Takes what it has by a name, whatever that is."""

    def __init__(self, name, part):
        super().__init__()
        self.name, self.first = name, nn.Linear(8, 8)
        if isinstance(part, nn.Module):
            self.add_module(name, part)
        else:
            self.register_buffer(name, part)

    def forward(self, x):
        found = getattr(self, self.name)
        return found(self.first(x)) if isinstance(found, nn.Module) else self.first(x) + found


@pytest.mark.parametrize("part", [nn.Linear(8, 4), torch.ones(8)], ids=["submodule", "tensor"])
@pytest.mark.parametrize("name", ["import", "class", "lambda", "None", "ä", "a b", "x::y", "__x__"])
def test_names_that_no_source_text_can_have_are_said(name, part):
    with pytest.raises(CompressionError, match=r"the name of a tensor must be (an identifier|a dotted name)") as caught:
        compressor("qat").compress(Named(name, part).eval(), CompressionRequest("qat", RULES, (X,)))
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["torch", "match", "a-b", "_x", "fx_pytree"])
def test_other_names_are_as_good_as_any(name):
    model = Named(name, nn.Linear(8, 4)).eval()
    compression = compressor("qat").compress(model, CompressionRequest("qat", RULES, (X,)))
    model = compression.finish(compression.model)
    again = Int8Model.from_dict(model.to_dict(), model.state_dict())
    torch.testing.assert_close(again(X), model(X), rtol=0, atol=0)


class TakesTorch(nn.Linear):
    def forward(self, torch):
        return super().forward(torch)


def test_an_argument_that_torch_fx_uses_itself_is_said():
    with pytest.raises(CompressionError, match=r"an argument of the model must be a name that torch\.fx does not use"):
        compressor("qat").compress(TakesTorch(8, 4).eval(), CompressionRequest("qat", RULES, (X,)))


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        (lambda y: Pair(y, y), "must be tensors in tuples, lists and dictionaries; it has a Pair"),
        (lambda y: y + torch.rand_like(y) * 0, r"it has aten\.rand_like\.default, which are not in the list"),
        (lambda y: {"a'b": y}, "must be a key of letters, digits"),
    ],
)
def test_what_could_not_be_stored_is_refused_before_training(out, reason):
    with pytest.raises(CompressionError, match=f"can be stored and loaded without its code; .*{reason}"):
        quantized(out)
