"""What becomes of one step of a trainer."""

import copy
import time

import pytest
import torch
from torch import nn
from torch.nn import functional

from autocompress.errors import ModuleError
from autocompress.trial.preflight.training import check_step, take_step, training_steps
from autocompress.trial.tasks import measure_baseline
from tests.trial.preflight_modules import (
    SPACE,
    TRAINER,
    Made,
    Right,
    batches,
    data,
    module,
    sgd,
    train,
)


def with_loader(model, optimizer, criterion, epoch):
    x, y = data()[0]
    for some, classes in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4):
        time.sleep(0.02)
        optimizer.zero_grad()
        criterion(model(some), classes).backward()
        optimizer.step()


def test_a_loader_tells_how_long_an_epoch_is():
    found = measure_baseline(module(**{TRAINER: with_loader}), SPACE).preflight
    assert 60 * 0.02 < found.epoch_seconds <= 60 * found.step_seconds


class Slow(torch.utils.data.Dataset):
    """Takes a while for each sample."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 40

    def __getitem__(self, index):
        time.sleep(self.seconds)
        x, y = data()[0]
        return x[index], y[index]


def loading(loader, begin=0.0, batch=0.0):
    """A trainer that takes a while to begin, and for each batch."""

    def trainer(model, optimizer, criterion, epoch):
        time.sleep(begin)
        for x, y in loader:
            time.sleep(batch)
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()

    return trainer


@pytest.mark.parametrize(("sample", "batch"), [(0.0, 0.03), (0.015, 0.0)], ids=["computing", "loading"])
def test_what_a_trainer_does_once_does_not_count_for_each_batch(sample, batch):
    trainer = loading(torch.utils.data.DataLoader(Slow(sample), batch_size=2), begin=0.5, batch=batch)
    found = measure_baseline(module(**{TRAINER: trainer}), SPACE).preflight
    assert 0.5 + 20 * 0.03 <= found.epoch_seconds < 5, "20 batches of 0.03 s; 20 beginnings would take 10 s"
    assert 0.53 <= found.step_seconds < 2


@pytest.mark.slow
def test_a_trainer_that_takes_long_to_begin_is_looked_at():
    """As one does whose loader starts workers: the model is called first after 1.6 s."""
    loader = torch.utils.data.DataLoader(Slow(0.8), batch_size=2, num_workers=1)
    found = measure_baseline(module(**{TRAINER: loading(loader)}), SPACE).preflight
    assert found.step_seconds > 1.5
    assert found.loss is not None
    assert found.warnings == ()
    assert found.epoch_seconds < 20 * 1.6, "the workers' first batch is waited for once"
    with pytest.raises(ModuleError, match=r"trainer.*it raised RuntimeError: head cannot"):
        measure_baseline(module(**{TRAINER: loading(loader)}, model=Made(lambda: frozen_but("head"))), SPACE)


def frozen_but(name):
    """A model that fails in training mode only."""

    def fails(part, _):
        if part.training:
            raise RuntimeError(f"{name} cannot be trained")

    model = Right.model()
    model.get_submodule(name).register_forward_pre_hook(fails)
    return model


def test_no_time_is_given_of_a_step_that_was_not_taken():
    def gathers(model, optimizer, criterion, epoch):
        for x, y in [batch for _ in range(100) for batch in batches()]:
            time.sleep(0.1)
            criterion(model(x), y).backward()
        optimizer.step()

    found = measure_baseline(module(**{TRAINER: gathers}), SPACE).preflight
    assert found.late
    assert found.step_seconds is None
    assert found.loss is not None
    (warning,) = found.warnings
    assert "takes no optimizer step within 1.5 s of its first batch" in warning


def test_a_criterion_that_is_listened_to_can_be_copied():
    class Scaled:
        factor, _private = 2.0, 3.0

        def __call__(self, x, y):
            return self.factor * functional.cross_entropy(x, y)

    def trainer(model, optimizer, criterion, epoch):
        assert copy.copy(criterion).factor == copy.deepcopy(criterion).factor == 2.0
        assert criterion._private == 3.0
        train(model, optimizer, copy.deepcopy(criterion), epoch)

    assert measure_baseline(module(criterion=Scaled(), **{TRAINER: trainer}), SPACE).preflight.loss is not None


def step_of(train, rate=0.1):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    return take_step(model, optimizer, functional.mse_loss, lambda criterion: train(model, optimizer, criterion)), model


def test_the_trainer_is_left_after_its_first_step():
    def endless(model, optimizer, criterion):
        while True:
            optimizer.zero_grad()
            criterion(model(torch.ones(4, 2)), torch.ones(4, 1) * 5).backward()
            optimizer.step()

    step, _ = step_of(endless)
    assert (step.steps, step.moved, step.returned, step.late) == (1, True, False, False)
    assert step.batches == len(step.losses) == 1
    assert step.loss > 0
    assert step.is_finite


def test_a_trainer_without_a_step_returns():
    step, _ = step_of(lambda model, optimizer, criterion: criterion(model(torch.ones(4, 2)), torch.zeros(4, 1)))
    assert (step.steps, step.moved, step.returned) == (0, False, True)


def test_steps_that_move_nothing_are_waited_for_a_while_only():
    def still(model, optimizer, criterion):
        for _ in range(100):
            criterion(model(torch.ones(4, 2)), torch.ones(4, 1)).backward()
            optimizer.step()

    step, _ = step_of(still, rate=0.0)
    assert step.steps == 8
    assert not step.moved


def test_a_parameter_that_breaks_or_changes_is_named():
    def breaks(model, optimizer, criterion):
        with torch.no_grad():
            model.weight.fill_(float("nan"))

    def widens(model, optimizer, criterion):
        model.bias = nn.Parameter(torch.zeros(7))

    assert step_of(breaks)[0].broken == "weight"
    assert step_of(widens)[0].changed == "bias"


def test_an_optimizer_of_other_parameters_is_noticed():
    def elsewhere(model, optimizer, criterion):
        other = nn.Linear(2, 1)
        own = torch.optim.SGD(other.parameters(), lr=0.1)
        for _ in range(20):
            criterion(other(torch.ones(4, 2)), torch.ones(4, 1)).backward()
            own.step()

    step, _ = step_of(elsewhere)
    assert step.elsewhere == 8
    assert step.steps == 0


def judged(trainer):
    ((name, step),) = training_steps(module(**{TRAINER: trainer}), ["l2"], Right.model())
    return name, check_step(name, step, "optimizer_factory()", "criterion()")


def test_a_step_with_the_trainer_of_each_algorithm():
    original = Right.model()
    before = {name: value.clone() for name, value in original.state_dict().items()}
    ((name, step),) = training_steps(Right, ["l2"], original)
    assert "post_compress_finetuning_trainer('l2')" in name
    assert step.moved
    assert step.loss == pytest.approx(functional.cross_entropy(original(batches()[0][0]), batches()[0][1]).item())
    assert check_step(name, step, "optimizer_factory()", "criterion()") == []
    assert all(torch.equal(value, before[name]) for name, value in original.state_dict().items()), "a copy is trained"


def test_a_trainer_that_trains_another_model_is_refused():
    other = Right.model()
    optimizer = sgd(other.parameters())
    with pytest.raises(ModuleError, match="must train the model that it is given"):
        judged(lambda model, _, criterion, epoch: train(other, optimizer, criterion, epoch))


def test_a_trainer_without_a_step_is_refused():
    with pytest.raises(ModuleError, match="returned without stepping the optimizer"):
        judged(lambda model, optimizer, criterion, epoch: None)


def test_a_trainer_that_gathers_gradients_for_long_is_told_in_a_warning():
    def gathers(model, optimizer, criterion, epoch):
        while True:
            x, y = batches()[0]
            time.sleep(0.2)
            criterion(model(x), y).backward()

    _, (warning,) = judged(gathers)
    assert "takes no optimizer step within 1.5 s of its first batch" in warning
