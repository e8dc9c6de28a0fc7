"""Equal damage: what the probe measures, and the widths that follow from it."""

import copy
import dataclasses
import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.compression.base import CompressionRequest, layer_shapes, recalibrate
from autocompress.compression.measure import ReferenceModel, macs, parameters
from autocompress.compression.module import AbstractAutoCompressionModule
from autocompress.compression.pruning.channels import Channels
from autocompress.compression.pruning.filters import FilterCompressor
from autocompress.compression.pruning.pruning_plan import TOLERANCE, PruningPlan
from autocompress.compression.pruning.sensitivity import damage_of, removal_damage, rising_slopes
from autocompress.errors import CompressionError, ConfigError, ModuleError
from autocompress.layer_selector import LayerRule
from autocompress.records import CouplingSensitivity
from autocompress.testing.zoo import ZooModule
from tests.compression.nets import IMAGE, build
from tests.trained_nets import TrainedModule, residual

PICTURES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(2))


class Calibrated(ZooModule):
    """Data for small nets; no labels and no trainer."""

    @classmethod
    def calibration_data(cls):
        return PICTURES.split(16)


def request(rate=0.5, algorithm="l2", module=Calibrated, inputs=IMAGE, sensitivity=None, **arguments):
    arguments = {"allocation": "sensitivity", **arguments}
    rules = (LayerRule(("default",), rate=rate),)
    return CompressionRequest(algorithm, rules, inputs, arguments=arguments, module=module, sensitivity=sensitivity)


def planned(model, wanted):
    model.eval()
    return PruningPlan.of(model, wanted, Channels.of(model, wanted, layer_shapes(model)))


def widths(model):
    return {name: shape.width for name, shape in layer_shapes(model).items()}


class Empty(nn.Module):
    """Half of the filters of the second convolution compute nothing."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv3, self.bn3 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            self.conv2.weight[::2] = 0
            self.conv2.bias[::2] = 0

    def forward(self, x):
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = torch.relu(norm(conv(x)))
        return self.head(x.mean((2, 3)))


def test_filters_that_compute_nothing_go_first():
    model = Empty()
    before = model.eval()(PICTURES)
    FilterCompressor().compress(model, request(8 / 48))
    assert widths(model) == {"conv1": 16, "conv2": 8, "conv3": 16, "head": 5}
    assert torch.allclose(model.eval()(PICTURES), before, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "no_norm", "residual", "grouped", "depthwise"])
def test_damage_begins_at_nothing_and_never_falls(name):
    model = build(name)
    before = copy.deepcopy(model.state_dict())
    known = planned(model, request()).request.sensitivity
    assert known.couplings
    assert known.samples == 32
    for each in known.couplings:
        assert (each.kept[0], each.damage[0]) == (1, 0)
        assert list(each.kept) == sorted(set(each.kept), reverse=True)
        assert list(each.damage) == sorted(each.damage)
        assert each.damage[-1] > 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items()), "measured on copies"


class Small(TrainedModule):
    """Trained for long enough that layers differ."""

    epochs = 8
    build = staticmethod(functools.partial(residual, (12, 24), 1))


@functools.cache
def trained():
    """A trained net, its module, and what was measured of it."""
    module = Small
    reference = ReferenceModel.of(module)
    model = module.model()
    known = planned(model, request(module=module, inputs=reference.inputs)).request.sensitivity
    return dataclasses.replace(reference, sensitivities=(known,)), module


def cut(rate, **arguments):
    reference, module = trained()
    model = module.model()
    rules = (LayerRule(("default",), rate=rate),)
    wanted = reference.request("l2", rules, {"allocation": "sensitivity", **arguments}, module)
    return model, FilterCompressor().compress(model, wanted)


@pytest.mark.parametrize("rate_of", ["filters", "parameters", "macs"])
def test_a_share_is_met_and_a_higher_one_never_leaves_a_layer_wider(rate_of):
    before = None
    for rate in (0.2, 0.4, 0.6, 0.8):
        model, compression = cut(rate, rate_of=rate_of)
        assert compression.achieved_rate(model) == pytest.approx(rate, abs=TOLERANCE)
        now = widths(model)
        assert before is None or all(now[name] <= width for name, width in before.items()), (before, now)
        before = now
    reference, _ = trained()
    counted = {"parameters": parameters(model), "macs": macs(model, reference.inputs)}
    if rate_of in counted:
        assert 1 - counted[rate_of] / getattr(reference.size, rate_of) == pytest.approx(0.8, abs=TOLERANCE)


def test_all_layers_are_damaged_alike():
    reference, module = trained()
    rules = (LayerRule(("default",), rate=0.5),)
    plan = planned(module.model(), reference.request("l2", rules, {"allocation": "sensitivity"}, module))
    kept = plan.remaining_for(None)
    done, next_ones = [], []
    for coupling, order, left in zip(plan.couplings, plan.order, kept, strict=True):
        gone = coupling.width - left
        done.append(order[gone - 1] if gone else 0.0)
        next_ones.append(order[gone] if left > plan._least(coupling) else float("inf"))
    assert max(done) > 0
    assert max(done) <= min(next_ones), "nothing that costs less is left"
    assert len(set(kept)) > 2


def test_what_was_pruned_before_ends_where_it_would_have_ended_at_once():
    reference, module = trained()
    rules = (LayerRule(("default",), rate=0.3),)
    model, _ = cut(0.3)
    again = reference.request("l2", (dataclasses.replace(rules[0], rate=0.6),), {"allocation": "sensitivity"}, module)
    FilterCompressor().compress(model, again)
    assert widths(model) == widths(cut(0.6)[0])


def test_it_is_nearer_to_the_uncompressed_model_than_layers_that_are_cut_alike():
    def loss(rate, **arguments):
        model, _ = cut(rate, rate_of="macs", **arguments)
        recalibrate(model, Small.calibration_data())
        return Small.loss(model)

    for rate in (0.3, 0.5, 0.6):
        assert loss(rate) < 0.95 * loss(rate, allocation="uniform")


@pytest.mark.parametrize("rate_of", ["filters", "parameters", "macs"])
def test_least_damage_is_less_in_all_than_that_of_other_widths_with_the_same_share(rate_of):
    reference, module = trained()
    (known,) = reference.sensitivities
    before = widths(module.model())

    def total(allocation):
        model, compression = cut(0.5, rate_of=rate_of, allocation=allocation)
        assert compression.achieved_rate(model) == pytest.approx(0.5, abs=TOLERANCE)
        left = widths(model)
        return sum(each.at(left[each.layers[0]] / before[each.layers[0]]) for each in known.couplings)

    assert total("least_damage") < min(total("sensitivity"), total("uniform"), total("global"))


class WithLoss(Calibrated):
    """Measured by the squared size of the first class' score, of its own pictures."""

    @classmethod
    def loss(cls, model):
        assert not model.training
        with torch.no_grad():
            return float(model(PICTURES)[:, 0].square().mean())

    @classmethod
    def sensitivity_loss(cls):
        return cls.loss


def test_damage_is_what_the_loss_of_the_module_rises_by():
    model = Empty().eval()
    known = planned(model, request(module=WithLoss)).request.sensitivity
    before = WithLoss.loss(model)
    for each in known.couplings:
        assert (each.kept[0], each.damage[0]) == (1, 0)
        assert list(each.damage) == sorted(each.damage)
    second = next(each for each in known.couplings if each.layers == ("conv2",))
    cut = Empty()
    cut.load_state_dict(model.state_dict())
    FilterCompressor().compress(cut, request(15 / 16, allocation="uniform", target_scopes=("conv2",)))
    assert widths(cut)["conv2"] == 1
    recalibrate(cut, PICTURES.split(16))
    rise = max(0.0, WithLoss.loss(cut.eval()) - before)
    assert second.damage[-1] == pytest.approx(max(rise, second.damage[-2]), rel=1e-5)
    assert known.couplings != planned(model, request()).request.sensitivity.couplings


@pytest.mark.parametrize("answer", ["high", float("nan"), None])
def test_a_loss_that_is_no_number_is_refused_by_name(answer):
    class Wrong(WithLoss):
        @classmethod
        def sensitivity_loss(cls):
            return lambda _: answer

    with pytest.raises(ModuleError, match=r"sensitivity_loss\(\)"):
        planned(Empty().eval(), request(module=Wrong))


def test_slopes_are_those_of_the_hull_below():
    assert rising_slopes(0.0, [1.0, 1.0, 4.0, 6.0]) == [0.5, 0.5, 2.5, 2.5]
    assert rising_slopes(0.0, [0.0, 0.0, 1.0]) == [0.0, 0.0, 1.0]
    assert rising_slopes(2.0, [4.0]) == [2.0]


def test_every_layer_keeps_a_share():
    model, _ = cut(0.9, minimal_kept=0.25)
    before = widths(trained()[1].model())
    assert min(width / before[name] for name, width in widths(model).items()) == 0.25
    with pytest.raises(CompressionError, match=r"a share of macs must be reachable; .*: minimal_kept 0\.25\)"):
        cut(0.97, rate_of="macs", minimal_kept=0.25)


def test_damage_between_measured_widths_is_between_theirs():
    known = CouplingSensitivity(("a",), 8, (1.0, 0.5, 0.25), (0.0, 4.0, 16.0))
    assert removal_damage(known, 8, 8, 1) == pytest.approx([0.25, 1.0, 2.25, 4.0, 9.0, 16.0, 16.0, 16.0])
    assert removal_damage(known, 4, 8, 2) == pytest.approx([16.0, 16.0]), "of a model that was pruned before"


def test_damage_is_a_divergence_of_class_scores_and_an_error_of_other_outputs():
    scores, other = torch.tensor([[1.0, 2.0], [0.0, 0.5]]), torch.tensor([[1.5, 2.0], [0.0, -0.5]])
    wanted, found = functional.softmax(scores, 1), functional.softmax(other, 1)
    assert damage_of([other], [scores]) == pytest.approx(float((wanted * (wanted / found).log()).sum(1).mean()))
    assert damage_of([other + 3], [scores]) == pytest.approx(damage_of([other], [scores])), "a shift changes nothing"
    boxes, moved = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[1.0], [4.0]]])
    assert damage_of([moved], [boxes]) == pytest.approx(0.5)
    assert damage_of([10 * moved], [10 * boxes]) == pytest.approx(0.5), "relative to the outputs' own spread"
    labels = torch.tensor([1, 2])
    assert damage_of([moved, other, labels], [boxes, scores, labels + 1]) == pytest.approx(
        0.5 + damage_of([other], [scores])
    )
    assert damage_of([boxes * float("nan")], [boxes]) > 1e6
    for outputs in ([], [boxes[:, :1]], [boxes, boxes]):
        with pytest.raises(CompressionError, match="outputs must be floating point numbers of the same shapes"):
            damage_of(outputs, [boxes])


class WithoutData(AbstractAutoCompressionModule):
    """Nothing to take inputs from."""

    @classmethod
    def model(cls):
        return build("plain")

    @classmethod
    def evaluator(cls):
        return lambda model: 1.0


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (None, ConfigError, "allocation 'sensitivity' needs inputs .*: define calibration_data"),
        (WithoutData, ModuleError, r"needs sparsifying_trainer\(\)"),
    ],
)
def test_inputs_that_are_missing_are_named(module, error, message):
    with pytest.raises(error, match=message):
        FilterCompressor().compress(build("plain"), request(module=module))


class Single(Calibrated):
    """Batches of single pictures, whose own statistics mean nothing."""

    @classmethod
    def calibration_data(cls):
        return PICTURES.split(1)


def test_single_samples_are_recalibrated_together():
    model = Empty()
    known = planned(model, request(module=Single)).request.sensitivity
    by_name = {each.layers[0]: each for each in known.couplings}
    assert max(by_name["conv2"].damage[:4]) < 1e-6 < min(by_name["conv1"].damage[1:])


def test_nncfs_filter_pruning_takes_it_too():
    model, spared = residual(), {"prune_first_conv": True, "prune_downsample_convs": True}
    wanted = request(0.5, "filter_pruning", Small, (torch.rand(1, 1, 8, 8),), **spared)
    compression = FilterCompressor().compress(model, wanted)
    assert compression.achieved_rate(model) == pytest.approx(0.5, abs=0.03)
    assert len({widths(model)[name] / width for name, width in widths(residual()).items()}) > 3
    both = dataclasses.replace(wanted, arguments={**wanted.arguments, "all_weights": True})
    with pytest.raises(ConfigError, match="allocation must be 'global' with all_weights"):
        FilterCompressor().compress(residual(), both)
