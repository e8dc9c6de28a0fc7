"""taylorfo: activation times gradient where channels are read."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.pruning.pruner import PruningContext
from autocompress.compression.pruning.taylor import taylor
from autocompress.errors import CompressionError
from autocompress.testing.zoo import ZooModule
from tests.compression.pruning.test_consumers import Net, followed, module_of


class Gated(Net):
    """The same net with a factor for each channel."""

    def sum(self, x):
        return super().sum(x) * self.factors


def scored(net, **arguments):
    _, request, channels, coupling = followed(net, "taylorfo", **arguments)
    with torch.enable_grad():
        return taylor(PruningContext(net, request, channels.behind, channels.couplings))(coupling)


def felt(net, batches):
    """Gradients of factors of 1, one for each sample, absolute, summed; the loss is a mean over batches of four."""
    gated = Gated(net.after, net.pool)
    gated.load_state_dict(net.state_dict())
    total = torch.zeros(6)
    for x, y in module_of(net).data()[:batches]:
        for image, label in zip(x, y, strict=True):
            gated.factors = torch.ones(6, 1, 1, requires_grad=True)
            loss = functional.cross_entropy(gated.eval()(image[None]), label[None]) / len(x)
            (gradient,) = torch.autograd.grad(loss, gated.factors)
            total += gradient.flatten().abs()
    return total


@pytest.mark.parametrize("after", [torch.relu, functional.silu, lambda x: x])
def test_a_score_is_the_gradient_of_a_factor_at_all_that_reads_the_channel(after):
    net = Net(after)
    assert torch.allclose(scored(net, training_batches=2), felt(net, 2), rtol=1e-3)


def test_batches_add_up():
    net = Net(torch.relu)
    assert torch.allclose(scored(net, training_batches=4), 2 * felt(net, 2), rtol=1e-3)


class Normal(nn.Module):
    """A convolution that BatchNorm follows: weight times gradient sums to zero over each filter."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Linear(6, 2)

    def sum(self, x):
        return self.norm(self.conv(x)).relu()

    def forward(self, x):
        return self.head(self.sum(x).mean((2, 3)))


def test_the_scale_of_a_filter_that_batchnorm_follows_is_no_matter():
    net = Normal()
    scaled, factors = copy.deepcopy(net), torch.tensor([1e-3, 1.0, 30.0, 5.0, 0.2, 1e3])
    with torch.no_grad():
        for model, factor in ((net, torch.ones(6)), (scaled, factors)):
            model.norm.eps = 1e-12
            model.conv.weight.mul_(factor[:, None, None, None])
            model.norm.running_var.mul_(factor**2)
    scores = scored(net)
    assert torch.allclose(scores, scored(scaled), rtol=1e-3)
    assert scores.min() > 1e-3 * scores.max(), "rounding noise"


def test_what_the_trainer_does_with_modes_is_no_matter():
    class Noisy(Net):
        def __init__(self):
            super().__init__(torch.relu, nn.Sequential(nn.Dropout(0.9), nn.AdaptiveAvgPool2d(1), nn.Flatten()))

    net = Noisy()
    assert torch.equal(scored(net), scored(net))
    silent = Net(torch.relu)
    silent.load_state_dict(net.state_dict())
    assert torch.allclose(scored(net), scored(silent), rtol=1e-4)


def test_two_passes_before_a_step_count_as_two():
    net = Net(torch.relu)

    class Accumulates(ZooModule):
        shape, outputs = (1, 4, 4), 2

        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            def train(model, optimizer, criterion, epoch):
                optimizer.zero_grad()
                for x, y in cls.data():
                    criterion(model(x), y).backward()
                optimizer.step()

            return train

    _, request, channels, coupling = followed(net, "taylorfo", training_batches=1)
    request = type(request)(**{**request.__dict__, "module": Accumulates})
    with torch.enable_grad():
        assert torch.allclose(
            taylor(PruningContext(net, request, channels.behind, channels.couplings))(coupling), felt(net, 2), 1e-3
        )


def test_layers_that_no_gradient_reaches_are_named():
    class Frozen(Net):
        def forward(self, x):
            with torch.set_grad_enabled(not self.training):  # followed in eval mode, trained without
                pooled = self.pool(self.sum(x))
            return self.head(pooled)

    with pytest.raises(
        CompressionError, match=r"taylorfo needs gradients .* none arrives from (left|right); train them"
    ):
        scored(Frozen(torch.relu))
