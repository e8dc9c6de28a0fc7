"""taylorfo: activation times gradient where channels are read."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, recalibrate
from autocompress.compression.pruning.data_importance import taylor
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.compression.pruning.pruner import PruningContext
from autocompress.errors import CompressionError, ConfigError, ModuleError
from autocompress.layer_selector import LayerRule
from autocompress.testing.conformance import check_cut
from autocompress.testing.zoo import ZOO, PlainCnn, ZooModule
from tests.compression.nets import IMAGE, build
from tests.compression.pruning.test_consumers import Net, followed, module_of
from tests.compression.structures import TwoInputs


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


RULES = (LayerRule(("Conv2d",), rate=0.5),)


class Halves(nn.Module):
    """Eight filters of constant size; the second half is hidden from the loss, or never active."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.Linear(8, 2)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.zero_()

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class HalvesModule(ZooModule):
    build = Halves
    shape = (1, 4, 4)
    outputs = 2
    batches = 3
    made: Halves

    @classmethod
    def example_inputs(cls):
        return torch.zeros(1, *cls.shape)


def prune(model, algorithm, module=HalvesModule, rules=RULES, **arguments):
    request = CompressionRequest(algorithm, rules, (module.example_inputs(),), arguments=arguments, module=module)
    return FilterCompressor().compress(model, request)


def ids(model):
    """Every filter made recognisable by its bias in the linear layer behind it: untouched by pruning."""
    return [round(float(value)) for value in model.head.weight[0].detach()]


def numbered(model):
    with torch.no_grad():
        model.head.weight[0] = torch.arange(8.0)
    return model


def test_taylorfo_keeps_what_the_loss_feels():
    model = numbered(Halves())
    with torch.no_grad():
        model.norm.weight[::2] = 1e-4  # next to no gradient reaches these filters
    prune(model, "taylorfo", training_batches=3)
    assert ids(model) == [1, 3, 5, 7]


@pytest.mark.parametrize("algorithm", ["apoz", "mean_activation"])
def test_activity_keeps_what_is_active(algorithm):
    model = numbered(Halves()).eval()
    with torch.no_grad():
        model.norm.bias[:3] = -100.0  # dead after the activation
        model.norm.bias[6] = -100.0
    prune(model, algorithm)
    assert ids(model) == [3, 4, 5, 7]


def test_mean_activation_ranks_by_size_and_apoz_by_how_often():
    model = numbered(Halves()).eval()
    with torch.no_grad():
        model.norm.weight.fill_(1e-6)
        model.norm.bias[:] = torch.tensor([0.1, 0.1, 0.1, 0.1, 5.0, 5.0, 5.0, 5.0])  # all always active
        model.norm.weight[4:] = 20.0  # large, but often below zero
    rare, large = copy.deepcopy(model), copy.deepcopy(model)
    prune(rare, "apoz")
    prune(large, "mean_activation")
    assert ids(rare) == [0, 1, 2, 3]
    assert ids(large) == [4, 5, 6, 7]


def test_gelu_lets_negative_values_through():
    model = numbered(Halves()).eval()
    with torch.no_grad():
        model.norm.weight.fill_(1e-6)
        model.norm.bias[:] = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0])
    counted = copy.deepcopy(model)
    prune(counted, "apoz", activation="relu")
    assert ids(counted) == [0, 1, 2, 3]
    with torch.no_grad():
        model.norm.bias[:] = torch.tensor([9.0, 9.0, 9.0, 9.0, 3.0, 3.0, 3.0, 3.0])
    capped = copy.deepcopy(model)
    prune(capped, "mean_activation", activation="relu6")
    assert ids(capped) == [0, 1, 2, 3]


def test_slim_keeps_the_largest_scales():
    model = numbered(Halves())
    with torch.no_grad():
        model.norm.weight[:] = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4])
    assert prune(model, "slim", training_epochs=0).epochs == 0
    assert ids(model) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("rule", "widths"),
    [
        (LayerRule(("BatchNorm2d",), rate=0.5), (8, 12, 20)),
        (LayerRule(("BatchNorm2d", "Linear"), rate=0.5), (8, 12, 10)),
        (LayerRule((), ("bn2",), rate=0.5), (16, 12, 20)),
        (LayerRule((), ("bn2", "hidden"), rate=0.5), (16, 12, 10)),
    ],
)
def test_slim_takes_batchnorm_for_the_filters_that_it_scales(rule, widths):
    model = build("plain")
    request = CompressionRequest("slim", (rule,), IMAGE, arguments={"training_epochs": 0}, module=HalvesModule)
    FilterCompressor().compress(model, request)
    assert (model.conv1.out_channels, model.conv2.out_channels, model.hidden.out_features) == widths


def test_slim_refuses_batchnorm_that_scales_no_layer():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3))
    request = CompressionRequest("slim", (LayerRule(("BatchNorm2d",), rate=0.5),), IMAGE, module=HalvesModule)
    with pytest.raises(ConfigError, match="slim prunes the layers before BatchNorm; before 0 is none"):
        FilterCompressor().check(model, request)


def test_slim_trains_with_a_penalty_on_the_scales():
    def scales(strength):
        model = PlainCnn.model()
        rules = (LayerRule(("Conv2d",), rate=0.0),)
        compression = prune(model, "slim", PlainCnn, rules, training_epochs=20, scale=strength)
        assert compression.epochs == 20
        return sum(float(m.weight.abs().sum()) for m in model.modules() if isinstance(m, nn.BatchNorm2d))

    none, some, much = scales(0.0), scales(1.0), scales(5.0)
    assert none > some > much, (none, some, much)


@pytest.mark.parametrize("algorithm", ["taylorfo", "apoz", "mean_activation"])
def test_looking_changes_nothing(algorithm):
    model = PlainCnn.model()
    before = copy.deepcopy(model)
    prune(model, algorithm, PlainCnn, (LayerRule(("Conv2d",), rate=0.0),))
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_batches_are_counted():
    seen = []

    class Counts(PlainCnn):
        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            def train(model, optimizer, criterion, epoch):
                for x, y in cls.data():
                    seen.append(epoch)
                    optimizer.zero_grad()
                    criterion(model(x), y).backward()
                    optimizer.step()

            return train

    prune(Counts.model(), "taylorfo", Counts, training_batches=5)
    assert seen == [0, 0, 1, 1, 2]


def test_a_trainer_that_never_steps_is_refused():
    class Idle(PlainCnn):
        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            return lambda model, optimizer, criterion, epoch: None

    with pytest.raises(ModuleError, match="the trainer of Idle for 'taylorfo' must step its optimizer; it never did"):
        prune(Idle.model(), "taylorfo", Idle)


def test_without_calibration_data_the_trainers_inputs_are_looked_at():
    class Bare(PlainCnn):
        @classmethod
        def calibration_data(cls):
            return None

    one, other = PlainCnn.model(), Bare.model()
    prune(one, "apoz", PlainCnn, training_batches=2)
    prune(other, "apoz", Bare, training_batches=2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_empty_calibration_data_is_refused():
    class Empty(PlainCnn):
        @classmethod
        def calibration_data(cls):
            return []

    with pytest.raises(ModuleError, match=r"Empty\.calibration_data\(\) must have at least one batch"):
        prune(Empty.model(), "apoz", Empty)


def test_without_batchnorm_slim_is_refused():
    module = ZOO["cnn_no_norm"]
    with pytest.raises(CompressionError, match="slim ranks filters by the scales of BatchNorm"):
        prune(module.model(), "slim", module)


def test_losses_without_a_criterion_hook_are_the_trainers_own():
    class Own(PlainCnn):
        @classmethod
        def criterion(cls):
            return None

        @classmethod
        def sparsifying_trainer(cls, compress_algorithm_name):
            def train(model, optimizer, criterion, epoch):
                for x, y in cls.data():
                    optimizer.zero_grad()
                    functional.cross_entropy(model(x), y).backward()
                    optimizer.step()

            return train

    one, other = PlainCnn.model(), Own.model()
    for model, module in ((one, PlainCnn), (other, Own)):
        torch.manual_seed(0)  # of dropout
        prune(model, "taylorfo", module)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


class Pairs(ZooModule):
    """A model of two inputs."""

    build = staticmethod(TwoInputs)
    outputs = 1

    @classmethod
    def model(cls):
        torch.manual_seed(0)
        return TwoInputs().eval()

    @classmethod
    def data(cls):
        generator = torch.Generator().manual_seed(1)
        return [(torch.randn(4, 3, 8, 8, generator=generator), torch.randn(4, 3, 8, 8, generator=generator))] * 2

    @classmethod
    def example_inputs(cls):
        return cls.data()[0]

    @classmethod
    def criterion(cls):
        return functional.mse_loss

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        def train(model, optimizer, criterion, epoch):
            for left, right in cls.data():
                optimizer.zero_grad()
                criterion(model(left, right)["similarity"], torch.ones(4, 1)).backward()
                optimizer.step()

        return train


@pytest.mark.parametrize(
    "algorithm", ["l1", "l2", "fpgm", "slim", "taylorfo", "apoz", "mean_activation", "filter_pruning"]
)
def test_models_of_two_inputs(algorithm):
    arguments = {"filter_pruning": {"prune_first_conv": True}, "apoz": {"activation": "relu"}}.get(algorithm, {})
    compression = check_cut(Pairs, algorithm, 0.5, **arguments)
    assert compression.changed == ("encoder.0",)
    assert compression.achieved_rate(compression.model) == 0.5
    assert recalibrate(compression.model, Pairs.calibration_data())
