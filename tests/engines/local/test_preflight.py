"""The preflight of a loop, on a real net: what is refused, what passes, and that nothing is left of it."""

import copy
import logging
import random

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.engines.local.functions import UserFunctions
from autocompress.errors import ConfigError, ModuleError
from autocompress.nncf import CompressionConfig, create_accuracy_aware_training_loop, create_compressed_model
from tests.trial.preflight_modules import FEATURES, Net, accuracy, data, loss, train, weights

pytestmark = pytest.mark.usefixtures("no_report")


def config(**degradation):
    params = {
        "initial_training_phase_epochs": 1,
        "patience_epochs": 1,
        "minimal_compression_rate_step": 0.1,
        **(degradation or {"maximal_relative_accuracy_degradation": 5.0}),
    }
    schedule = {"schedule": "multistep", "multistep_steps": [1, 2], "multistep_sparsity_levels": [0.2, 0.3, 0.4]}
    return CompressionConfig.from_dict(
        {
            "input_info": {"sample_size": [1, FEATURES]},
            "accuracy_aware_training": {"mode": "adaptive_compression_level", "params": params},
            "compression": {"algorithm": "magnitude_sparsity", "params": schedule},
        }
    )


class Loop:
    """A loop and the user's functions."""

    def __init__(self, *, given=None, higher_is_better=True, settings=None):
        net = Net()
        net.load_state_dict(weights())
        self.controller, self.model = create_compressed_model(net, settings or config())
        given = accuracy(self.controller.uncompressed.original) if given is None else given
        self.loop = create_accuracy_aware_training_loop(
            settings or config(), self.controller, given, higher_is_better=higher_is_better
        )
        self.epochs = []

    def train(self, controller, model, epoch, optimizer, **_):
        controller.scheduler.epoch_step()
        train(model, optimizer, nn.functional.cross_entropy, epoch)
        self.epochs.append(epoch)

    def optimizers(self):
        return torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9), None

    def run(self, directory, train_epoch=None, validate=accuracy, optimizers=None, **options):
        functions = (train_epoch or self.train, validate, optimizers or self.optimizers)
        return self.loop.run(self.model, *functions, log_dir=directory, **options)


def test_what_is_found_is_logged_and_kept(tmp_path, caplog):
    loop = Loop()
    with caplog.at_level(logging.INFO, "autocompress.loop"):
        loop.run(tmp_path)
    lines = [message for message in caplog.messages if message.startswith("preflight: ")]
    assert [line.split()[1] for line in lines] == ["evaluator:", "direction:", "training", "search:"]
    preflight = loop.loop.result.directory.settings()["baseline"]["preflight"]
    assert preflight["noise"] == 0
    assert preflight["accuracies"][0] == pytest.approx(accuracy(loop.controller.uncompressed.original))


def test_the_search_is_the_same_with_and_without_it(tmp_path):
    found = []
    for preflight in (True, False):
        loop = Loop()
        model = loop.run(tmp_path / str(preflight), preflight=preflight)
        records = [{**record.to_dict(), "seconds": 0, "key": 0} for record in loop.loop.result.records]
        found.append(
            ([(r["requested_rate"], r["accuracy"], r["epochs"]) for r in records], model.state_dict(), loop.epochs)
        )
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


WRONG = {
    "a direction that was forgotten": (
        {"given": 0.02},
        {"validate": loss},
        "higher_is_better must be the direction of validate_fn",
    ),
    "another unit": (
        {"given": 98.0},
        {},
        "uncompressed_model_accuracy must be what validate_fn gives .* it is 98, and",
    ),
    "a random accuracy": (
        {},
        {"validate": lambda model: random.random()},
        "validate_fn must give the same model the same",
    ),
    "an accuracy of no model": ({}, {"validate": lambda model: 0.99}, "validate_fn must depend on the model"),
    "validation that fails": (
        {},
        {"validate": lambda model: model(1)},
        "validate_fn must evaluate the model .* it raised",
    ),
    "no number": (
        {},
        {"validate": lambda model: None},
        "validate_fn must return a finite number, or a 1-D tensor, array or list of one for each sample; got None",
    ),
    "training that fails": (
        {},
        {"train_epoch": lambda controller, model, **_: model("x")},
        "train_epoch_fn and configure_optimizers_fn must train .* they raised TypeError",
    ),
    "training of other arguments": (
        {},
        {"train_epoch": lambda model: None},
        "train_epoch_fn and configure_optimizers_fn must train .* they raised TypeError",
    ),
    "training of nothing": (
        {},
        {"train_epoch": lambda controller, model, **_: None},
        "train_epoch_fn must train the model that it is given when it is called; it returned without",
    ),
    "no optimizer": ({}, {"optimizers": lambda: ("SGD", None)}, "configure_optimizers_fn must return an optimizer"),
}


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_functions_are_refused_before_any_training(name, tmp_path):
    made, given, message = WRONG[name]
    loop = Loop(**made)
    with pytest.raises((ModuleError, ConfigError), match=message) as refused:
        loop.run(tmp_path, **given)
    assert "\n" not in str(refused.value)
    assert not loop.epochs
    assert not list(tmp_path.iterdir()), "no run has begun"


def test_a_budget_of_everything(tmp_path):
    with pytest.raises(ConfigError, match="must be below 100"):
        Loop(settings=config(maximal_relative_accuracy_degradation=101.0)).run(tmp_path)


def test_nothing_is_left_of_it(tmp_path):
    """Of a step with an optimizer that the user keeps, as there is no configure_optimizers_fn."""
    loop = Loop()
    optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01, momentum=0.9)
    x, y = data()[0]
    nn.functional.cross_entropy(loop.model(x), y).backward()
    optimizer.step()
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    momentum = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in loop.model.parameters()]
    gradients = [parameter.grad.clone() for parameter in loop.model.parameters()]
    level, epoch = loop.controller.compression_rate, loop.controller.scheduler.get_state()
    drawn = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())

    calls = []

    def step(controller, model, **_):
        calls.append(1)
        controller.scheduler.epoch_step()
        train(model, optimizer, nn.functional.cross_entropy, 0)

    loop.loop._check(loop.model, functions(step))
    assert calls == [1]
    state = loop.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.items())
    kept = [optimizer.state[parameter]["momentum_buffer"] for parameter in loop.model.parameters()]
    assert all(torch.equal(*pair) for pair in zip(kept, momentum, strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(loop.model.parameters(), gradients, strict=True))
    assert (loop.controller.compression_rate, loop.controller.scheduler.get_state()) == (level, epoch)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == drawn


def functions(step):
    return UserFunctions(step, accuracy)


class Counter:
    """A scheduler of another library."""

    def __init__(self, optimizer):
        self.optimizer, self.steps = optimizer, 0

    def step(self):
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] /= 2

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


@pytest.mark.parametrize("make", [lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), Counter])
@pytest.mark.parametrize("configured", [True, False])
def test_a_schedule_that_the_user_keeps_stands_still(make, configured):
    """What is not torch's is known where configure_optimizers_fn gives it."""
    loop = Loop()
    optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01)
    scheduler = make(optimizer)
    before, rate = scheduler.state_dict(), optimizer.param_groups[0]["lr"]
    stepped = []

    def step(controller, model, **_):
        optimizer.step()  # moves nothing
        scheduler.step()
        stepped.append(optimizer.param_groups[0]["lr"])
        train(model, optimizer, nn.functional.cross_entropy, 0)

    given = UserFunctions(step, accuracy, (lambda: (optimizer, scheduler)) if configured else None)
    loop.loop._check(loop.model, given)
    assert stepped == [rate / 2]
    assert optimizer.param_groups[0]["lr"] == rate
    if configured or make is not Counter:
        assert scheduler.state_dict() == before


def test_a_scaler_that_the_user_keeps_can_go_on():
    """The step that is broken off had unscaled its gradients, which may be done once a step."""
    loop = Loop()
    optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x, y = data()[0]
    calls = []

    def scaled(model):
        optimizer.zero_grad()
        scaler.scale(nn.functional.cross_entropy(model(x), y)).backward()
        scaler.unscale_(optimizer)
        calls.append(next(model.parameters()).grad.clone())
        scaler.step(optimizer)
        scaler.update()

    before = scaler.state_dict()
    loop.loop._check(loop.model, functions(lambda controller, model, **_: scaled(model)))
    assert scaler.state_dict() == before
    scaled(loop.model)
    assert torch.equal(*calls), "unscaled once, from the same weights"


def test_what_the_functions_get_can_be_copied():
    loop, copies = Loop(), []

    def step(controller, model, **rest):
        copies.append((copy.copy(controller), copy.copy(controller.scheduler)))
        loop.train(controller, model, 0, torch.optim.SGD(model.parameters(), lr=0.01))

    loop.loop._check(loop.model, functions(step))
    ((controller, scheduler),) = copies
    assert controller.compression_rate == loop.controller.compression_rate
    assert scheduler.get_state() == loop.controller.scheduler.get_state()


def test_a_run_that_began_without_a_preflight_is_gone_on_with(tmp_path):
    loop = Loop()
    loop.run(tmp_path, preflight=False)
    (run,) = tmp_path.iterdir()
    kept = loop.loop.result.directory.settings()
    assert kept["settings"]["preflight"] is False
    assert kept["baseline"]["preflight"] is None
    again = Loop()
    again.run(tmp_path, resume=run)
    assert not again.epochs, "all has been trained"
