"""Schedules of fine-tuning act on the real optimizer; averages are averages."""

import itertools
from typing import ClassVar

import pytest
import torch
from torch import nn

from autocompress.compression.base import AppliedAlgorithms, plain_name
from autocompress.compression.measure import ReferenceModel
from autocompress.compression.model_state import copy_model
from autocompress.compression.trainer_hooks import new_optimizer
from autocompress.errors import ConfigError
from autocompress.search_space import default_space, read_parameters
from autocompress.testing.zoo import ZOO
from autocompress.trial.fine_tuning import ModuleTraining
from autocompress.trial.optimization import (
    Optimization,
    ScheduledSteps,
    averaged,
    make_scheduler,
    optimizer_factory,
    schedule_factor,
    scheduler_factory,
    take_parameters,
)
from tests import scripts

STEPS = 4


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [("constant", [1, 1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25, 0]), ("cosine", [1, 0.853553, 0.5, 0.146447, 0])],
)
def test_factors(schedule, factors):
    assert [schedule_factor(schedule, share / 4) for share in range(5)] == pytest.approx(factors, abs=1e-6)
    assert schedule_factor(schedule, 1.5) == pytest.approx(factors[-1]), "an epoch may be longer than the one before"


def moved(schedule, epochs, *, steps_per_epoch=None, factory=torch.optim.SGD, steps=STEPS):
    """How far each step moves a weight whose gradient is 1, by epochs; and the learning rate between the steps."""
    weight = nn.Parameter(torch.zeros(()))
    optimizer = factory([weight], lr=0.1)
    scheduled = ScheduledSteps(schedule, epochs, steps_per_epoch)
    scheduled.attach(optimizer)
    found, between = [], set()
    for _ in range(epochs):
        found.append([])
        for _ in range(steps):
            before = weight.item()
            weight.grad = torch.ones(())
            optimizer.step()
            found[-1].append(before - weight.item())
            between.add(optimizer.param_groups[0]["lr"])
        scheduled.end_epoch()
    return found, between, scheduled.steps_per_epoch


def test_a_known_number_of_steps_goes_down_to_zero_step_by_step():
    found, between, steps = moved("linear", 2, steps_per_epoch=STEPS)
    assert list(itertools.chain(*found)) == pytest.approx([0.1 * (1 - step / 8) for step in range(8)])
    assert between == {0.1}, "users who look at the rate, or set it, see their own"
    assert steps == STEPS


def test_the_first_epoch_is_at_the_rate_of_its_middle_where_its_length_is_not_known():
    found, _, steps = moved("linear", 2)
    assert found[0] == pytest.approx([0.075] * STEPS)
    assert found[1] == pytest.approx([0.05, 0.0375, 0.025, 0.0125])
    assert steps == STEPS


def test_an_epoch_that_is_longer_than_known_stays_at_its_end():
    found, _, _ = moved("linear", 1, steps_per_epoch=2)
    assert found[0] == pytest.approx([0.1, 0.05, 0, 0])


def test_adam_and_tensor_rates():
    found, _, _ = moved("linear", 1, steps_per_epoch=STEPS, factory=torch.optim.Adam)
    assert found[0] == pytest.approx([0.1, 0.075, 0.05, 0.025], rel=1e-3)
    found, _, _ = moved(
        "linear", 1, steps_per_epoch=STEPS, factory=lambda given, lr: torch.optim.Adam(given, lr=torch.tensor(lr))
    )
    assert found[0] == pytest.approx([0.1, 0.075, 0.05, 0.025], rel=1e-3)


def test_it_multiplies_what_the_user_sets():
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduled = ScheduledSteps("linear", 1, 2)
    scheduled.attach(optimizer)
    for rate in (0.1, 1.0):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.ones(())
        optimizer.step()
    assert weight.item() == pytest.approx(-(0.1 * 1 + 1.0 * 0.5))


class Counted(ZOO["regression"]):
    """Notes how many epochs its scheduler is made for."""

    made: ClassVar = []

    @classmethod
    def lr_scheduler_factory(cls):
        return lambda optimizer, epochs: cls.noted(optimizer, epochs)

    @classmethod
    def noted(cls, optimizer, epochs):
        cls.made.append(epochs)
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)


def test_a_scheduler_may_be_told_the_epochs_and_takes_the_place_of_the_schedule():
    Counted.made.clear()
    training = ModuleTraining(Counted, "l2", Optimization(schedule="linear", lr_factor=0.5))
    train = training.begin(Counted.model(), 5)
    train(0)
    assert (Counted.made, training.schedule) == ([5], "lr_scheduler_factory")


@pytest.mark.parametrize(
    "factory",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        lambda optimizer, *, gamma=0.5: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma),
        lambda optimizer, gamma=0.5: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma),
        lambda optimizer, **options: torch.optim.lr_scheduler.StepLR(optimizer, 1, **options),
        lambda *given: torch.optim.lr_scheduler.StepLR(*given, 1),
    ],
)
def test_others_are_given_the_optimizer_alone(factory):
    module = type("Own", (ZOO["regression"],), {"lr_scheduler_factory": classmethod(lambda _: factory)})
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.1)
    assert make_scheduler(module, optimizer, 7).step_size == 1


def test_without_a_scheduler():
    assert make_scheduler(ZOO["regression"], None, 7) is None


def test_averages():
    model = nn.Linear(1, 1, bias=False)
    swa, ema = averaged(model, "swa"), averaged(model, "ema")
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(model.weight, value)
        swa.update_parameters(model)
        ema.update_parameters(model)
    take_parameters(model, swa.module)
    assert model.weight.item() == pytest.approx(3.0)
    take_parameters(model, ema.module)
    assert model.weight.item() == pytest.approx(0.98 * (0.98 * 1 + 0.02 * 2) + 0.02 * 6)


def test_models_with_computed_weights_are_averaged():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    model(torch.ones(1, 2)).sum().backward()
    mean = averaged(model, "ema")
    mean.update_parameters(model)
    assert torch.allclose(mean.module(torch.ones(1, 2)), model(torch.ones(1, 2)))


def test_training_averages_the_last_epoch():
    module = ZOO["cnn"]
    training = ModuleTraining(module, "l2", Optimization(averaging="swa"))
    model = module.model().train()
    train = training.begin(model, 2)
    train(0)
    assert not training.average(model), "only the last one"
    train(1)
    last = [parameter.detach().clone() for parameter in model.parameters()]
    assert training.average(model)
    assert any(not torch.equal(before, after) for before, after in zip(last, model.parameters(), strict=True))
    assert not training.average(model), "once"


def under_compression(name, model):
    """A model that an algorithm is on, as it is fine-tuned."""
    inputs = (torch.ones(4, 8),)
    reference = ReferenceModel.measured(model, inputs)
    entry = default_space([name]).algorithms[0]
    axis = entry.axis()
    (part,) = read_parameters(entry.parameters(None if axis is None else 0.5)).stages
    return AppliedAlgorithms().apply(copy_model(model), reference.request(part.name, part.rules, part.arguments))


@pytest.mark.parametrize(
    "algorithm", ["l2", "magnitude_sparsity", pytest.param("qat", marks=pytest.mark.slow), "dorefa"]
)
def test_an_optimizer_is_made_anew_with_its_groups(algorithm):
    """Of the uncompressed model: two groups, and a bias in none of them."""
    model = scripts.trained()
    groups = [{"params": [model[0].weight, model[2].weight], "weight_decay": 0.01}, {"params": model[4].parameters()}]
    groups[1]["lr"] = 0.5
    own = torch.optim.AdamW(groups, lr=0.1, betas=(0.5, 0.9))
    torch.optim.lr_scheduler.StepLR(own, 1)  # leaves initial_lr in the groups
    compressed = under_compression(algorithm, model)
    made = optimizer_factory(own, model)(compressed)
    assert type(made) is torch.optim.AdamW
    assert [group["lr"] for group in made.param_groups] == [0.1, 0.5]
    assert [group["weight_decay"] for group in made.param_groups] == [0.01, 0.01]
    assert {group["betas"] for group in made.param_groups} == {(0.5, 0.9)}
    named = {id(parameter): name for name, parameter in compressed.named_parameters()}
    first, second = (
        {plain_name(named[id(each)]).removeprefix("graph.") for each in group["params"]} for group in made.param_groups
    )
    assert {"0.weight", "2.weight"} <= first
    assert second == {"4.weight", "4.bias"}
    assert not {"0.bias", "2.bias"} & (first | second)
    assert not made.state, "nothing of the other model's"
    compressed(torch.ones(4, 8)).sum().backward()
    made.step()


def test_an_optimizer_of_a_wrapped_model():
    model = scripts.trained()
    wrapped = nn.DataParallel(model)
    made = optimizer_factory(torch.optim.SGD(wrapped.parameters(), lr=0.1), wrapped)(scripts.trained())
    assert len(made.param_groups[0]["params"]) == len(list(model.parameters()))


def test_factories_of_the_model_or_of_its_parameters():
    model = scripts.trained()
    head = new_optimizer(lambda model: torch.optim.SGD(model[4].parameters(), lr=0.1), model)
    assert head.param_groups[0]["params"] == list(model[4].parameters())
    for factory in (torch.optim.Adam, lambda parameters: torch.optim.Adam(parameters)):
        assert new_optimizer(optimizer_factory(factory, model), model).param_groups[0]["params"] == [
            *model.parameters()
        ]


def test_schedulers_of_a_class_and_its_arguments():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=0.1)
    assert scheduler_factory((torch.optim.lr_scheduler.StepLR, {"step_size": 3}))(optimizer).step_size == 3
    with pytest.raises(ConfigError, match="scheduler must be a function"):
        scheduler_factory("cosine")
