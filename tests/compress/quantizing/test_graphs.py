"""What an int8 model may take, give and consist of is said before it is trained."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from autocompress.compress.base import CompressionRequest
from autocompress.compress.layers import LayerTarget
from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.registry import compressor
from autocompress.errors import CompressionError

RULES = (LayerTarget(("default",), quant_types=("weight", "output")),)
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
