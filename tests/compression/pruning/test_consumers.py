"""Where channels are read, and what is read there."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, layer_shapes
from autocompress.compression.model_state import eval_mode, require_gradients
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.consumers import input_norms, read_sites
from autocompress.compression.pruning.data_importance import activity
from autocompress.compression.pruning.pruner import PruningContext
from autocompress.errors import CompressionError
from autocompress.layer_selector import LayerRule
from autocompress.testing.zoo import ZooModule

ACTIVATIONS = {
    "relu": functional.relu,
    "method": lambda x: x.relu(),
    "in place": lambda x: functional.relu(x, inplace=True),
    "relu6": functional.relu6,
    "hardswish": lambda x: functional.hardswish(5 * x),
    "threshold": lambda x: functional.threshold(x, 0.3, 0.0),
    "hand-written": lambda x: x * (x > 0),
}


class Net(nn.Module):
    """Two branches that are added, what follows the sum, and a head behind a pooling."""

    def __init__(self, after, pool=lambda x: x.mean((2, 3)), columns=1):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6 * columns, 2)
        self.after, self.pool = after, pool

    def sum(self, x):
        return self.after(self.norm(self.left(x)) + self.right(x))

    def forward(self, x):
        return self.head(self.pool(self.sum(x)))


def module_of(net):
    class NetModule(ZooModule):
        shape, outputs = (1, 4, 4), 2

        @classmethod
        def model(cls):
            return net

    return NetModule


def followed(net, algorithm, **arguments):
    torch.manual_seed(0)
    module = module_of(net.eval())
    request = CompressionRequest(
        algorithm, (LayerRule(("default",), rate=0.5),), (module.example_inputs(),), None, arguments, module
    )
    with eval_mode(net), require_gradients(net):
        channels = Channels.of(net, request, layer_shapes(net))
    (coupling,) = channels.couplings
    return module, request, channels, coupling


def scored(net, algorithm, **arguments):
    module, request, channels, coupling = followed(net, algorithm, **arguments)
    score = activity(PruningContext(net, request, channels.behind, channels.couplings), zeros=algorithm == "apoz")(
        coupling
    )
    with torch.no_grad():
        values = net.sum(torch.cat([x for x, _ in module.data()])).movedim(1, 0).flatten(1)
    return score, values


@pytest.mark.parametrize("after", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_apoz_counts_zeros_behind_the_non_linearity_of_the_sum_before_it_is_pooled(after):
    score, values = scored(Net(after), "apoz")
    assert torch.allclose(score, (values != 0).float().mean(1))
    assert (score < 1).all()


def test_apoz_goes_back_through_poolings_dropout_and_flattening():
    pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(), nn.Flatten())
    score, values = scored(Net(torch.relu, pool, columns=4), "apoz")
    assert torch.allclose(score, (values != 0).float().mean(1))


@pytest.mark.parametrize("after", [functional.silu, functional.gelu, torch.tanh, lambda x: x])
def test_apoz_without_any_zero_is_refused(after):
    with pytest.raises(CompressionError, match=r"apoz ranks filters by how often .* behind (left|right) none is zero"):
        scored(Net(after), "apoz")
    score, _ = scored(Net(after), "apoz", activation="relu")
    assert ((score > 0) & (score < 1)).all()


@pytest.mark.parametrize("after", [torch.relu, functional.silu, lambda x: functional.leaky_relu(x, 0.5)])
def test_mean_activation_is_what_the_next_layer_gets(after):
    net = Net(after, lambda x: x.flatten(1), columns=16)
    score, values = scored(net, "mean_activation")
    sizes = values.view(6, -1, 16).square().mean(1).sqrt()  # channels, columns of the head
    assert torch.allclose(score, (sizes * net.head.weight.norm(dim=0).view(6, 16)).sum(1), rtol=1e-4)


def test_a_channel_and_its_readers_may_be_scaled():
    plain, scaled = Net(torch.relu), Net(torch.relu)
    scaled.load_state_dict(plain.state_dict())
    factors = torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0, 0.5])
    with torch.no_grad():
        for tensor in (scaled.norm.weight, scaled.norm.bias, scaled.right.weight, scaled.right.bias):
            tensor.mul_(factors.view(-1, *[1] * (tensor.dim() - 1)))
        scaled.head.weight.div_(factors)
    assert torch.allclose(scored(plain, "mean_activation")[0], scored(scaled, "mean_activation")[0], rtol=1e-4)


def test_without_a_layer_that_reads_them_channels_are_seen_at_the_root():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.key = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            return (self.query(x) * self.key(x)).sum(-1)

    net = Product()
    rules = (LayerRule(("default",), rate=0.5),)
    request = CompressionRequest("l2", rules, (torch.zeros(2, 3, 5),))
    with eval_mode(net), require_gradients(net):
        channels = Channels.of(net, request, layer_shapes(net))
    for coupling in channels.couplings:
        (site,) = read_sites(coupling, net, channels.behind)
        assert (site.output, site.name, site.indices.tolist()) == (True, coupling.members[0], [0, 1, 2, 3])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(6, 4, 3),
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 3),
        nn.ConvTranspose1d(6, 4, 3, groups=2),
        nn.LSTM(6, 4, bidirectional=True),
    ],
    ids=str,
)
def test_input_norms_are_of_the_weights_that_a_channel_meets(layer):
    """Of linear layers without bias: the size of what comes out for a unit in one channel, at all positions."""
    norms = input_norms(layer)
    assert norms.shape == (6,)
    if isinstance(layer, nn.LSTM):
        expected = torch.cat([layer.weight_ih_l0, layer.weight_ih_l0_reverse]).norm(dim=0)
    else:
        spatial = [5] * (layer.weight.dim() - 2)
        units = torch.zeros(6, 6, *spatial)
        units[(range(6), range(6), *[2] * len(spatial))] = 1.0
        bias = layer(torch.zeros_like(units))
        expected = (layer(units) - bias).flatten(1).norm(dim=1)
    assert torch.allclose(norms, expected, rtol=1e-4)
