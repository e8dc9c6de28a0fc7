"""The preflight refuses modules that cannot guide a search, in one sentence, and lets unusual ones pass."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR
from torch.optim.optimizer import register_optimizer_step_post_hook

from autocompress import AccuracyBudget
from autocompress.errors import ConfigError, ModuleError
from autocompress.search.noise import mean_error, share_error
from autocompress.search_space import SearchSpace, default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.trial.tasks import _check, measure_baseline
from tests.trial.preflight_modules import (
    CLASSES,
    FEATURES,
    SPACE,
    SPACE_OF_LEVEL,
    TRAINER,
    Bare,
    LossAsAccuracy,
    Made,
    Net,
    Raw,
    Right,
    accuracy,
    batches,
    data,
    loss,
    module,
    sgd,
    train,
    weights,
)


def raising(error):
    def make():
        raise error

    return Made(make)


def budget(**degradation):
    return AccuracyAwareSettings().with_budget(AccuracyBudget(**degradation))


@pytest.fixture
def steps(monkeypatch):
    """How often any optimizer was stepped."""
    taken = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    weights()  # their training is none of the preflight's
    taken.clear()
    yield taken
    handle.remove()


# What is evaluated


def training_mode(model):
    x, y = data()[1]
    with torch.no_grad():
        return (model.train()(x).argmax(1) == y).float().mean().item()


def functional_dropout(model):
    x, y = data()[1]
    with torch.no_grad():
        return (model(functional.dropout(x, 0.5)).argmax(1) == y).float().mean().item()


def few_random_samples(model):
    x, y = data()[1]
    chosen = torch.randint(len(x), (20,))
    with torch.no_grad():
        noise = torch.randn(20, FEATURES)
        return (model(x[chosen] + noise).argmax(1) == y[chosen]).float().mean().item()


def trains(model):
    train(model, sgd(model.parameters()), functional.cross_entropy, 0)
    return accuracy(model)


def halves(model):
    answer = accuracy(model)
    model.half()
    return answer


def untrained():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def untrained_ten():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return Net(10)


def ten_classes(model):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(1000, FEATURES, generator=generator), torch.randint(10, (1000,), generator=generator)
    with torch.no_grad():
        return (model(x).argmax(1) == y).float().mean().item()


def nan_model():
    model = Right.model()
    with torch.no_grad():
        model.hidden.weight[0, 0] = float("nan")
    return model


def global_model():
    model = Right.model()
    return model, lambda *_: train(model, sgd(model.parameters()), functional.cross_entropy, 0)


GLOBAL, TRAINS_GLOBAL = global_model()
ITERATOR = iter(batches())


def frozen():
    return Right.model().requires_grad_(False)


def steps_without_backward(model, optimizer, criterion, epoch):
    for x, y in batches():
        criterion(model(x), y)
        optimizer.step()


def never_steps(model, optimizer, criterion, epoch):
    for x, y in batches():
        criterion(model(x), y)


def detached_loss(model, optimizer, criterion, epoch):
    for x, y in batches():
        criterion(model(x).detach(), y).backward()


def infinite_loss(model, optimizer, criterion, epoch):
    for x, y in batches():
        optimizer.zero_grad()
        (criterion(model(x * 1e30), y) / 0).backward()
        optimizer.step()


def widens(model, optimizer, criterion, epoch):
    model.extra = nn.Linear(2, 2)
    train(model, optimizer, criterion, epoch)


WRONG = {
    # part 4 of its own words
    "a loss whose direction was forgotten": (
        LossAsAccuracy,
        r"LossAsAccuracy\.higher_is_better must be the direction of LossAsAccuracy\.evaluator\(\): the "
        r"uncompressed model gets 0\.0\d+ and one whose output layer is zeroed 1\.\d+, .*set higher_is_better = False",
    ),
    "an accuracy said to be better when lower": (
        module(higher_is_better=Raw(False)),
        r"higher_is_better must be the direction.*set higher_is_better = True",
    ),
    "a random evaluator": (
        module(evaluator=lambda model: random.random()),
        r"evaluator\(\) must give the same model the same accuracy.*fix the seed",
    ),
    "random numbers of torch": (
        module(evaluator=lambda model: accuracy(model) + 0.1 * torch.rand(()).item()),
        "must give the same model the same",
    ),
    "a few samples, drawn anew": (module(evaluator=few_random_samples), "a difference of .* tolerates a loss of"),
    "dropout left on": (
        module(model=Made(lambda: dropped(0.5)), evaluator=training_mode),
        r"evaluator\(\) must evaluate in eval\(\) mode; dropout \(Dropout\) is in training mode .*call model\.eval\(\)",
    ),
    "dropout of the function": (
        module(evaluator=functional_dropout),
        r"evaluator\(\) must give the same .*eval\(\) mode",
    ),
    "an untrained model": (module(model=Made(untrained)), r"train|trained"),
    "an untrained model of ten classes": (
        module(model=Made(untrained_ten), evaluator=ten_classes, post_compress_finetuning_trainer=None),
        r"model\(\) must be trained|train model\(\) first",
    ),
    "random weights each time": (module(model=Made(Net)), "train|same trained weights"),
    "an accuracy of 0": (
        module(evaluator=lambda model: 0.0),
        r"evaluator\(\) must give the uncompressed model another accuracy than 0",
    ),
    "a loss that is finite and whose gradient is not": (
        module(criterion=lambda outputs, y: functional.cross_entropy(outputs, y) + (0 * outputs.sum()).sqrt()),
        r"finetuning_trainer\('l2'\) must leave the parameters finite; 'hidden.weight' is not .*learning rate",
    ),
    "a trainer of two arguments": (
        module(**{TRAINER: lambda model, optimizer: None}),
        r"finetuning_trainer\('l2'\) must return a function of \(model, optimizer, criterion, epoch\); that which it "
        r"returns takes \(model, optimizer\)",
    ),
    "a trainer that takes them by other names": (
        module(**{TRAINER: lambda model, *, optimizer, criterion, epoch: None}),
        "must return a function of",
    ),
    # evaluators
    "an evaluator that trains": (
        module(evaluator=trains),
        r"evaluator\(\) must not change the model; it changes 'hidden",
    ),
    "an evaluator that converts": (module(evaluator=halves), "must not change the model"),
    "an evaluator that ignores the model": (
        module(evaluator=lambda model: 0.93),
        r"evaluator\(\) must depend on the model that it is given",
    ),
    "an evaluator of a global model": (
        module(evaluator=lambda model: accuracy(GLOBAL)),
        "must depend on the model that it is given",
    ),
    "a number for an evaluator": (
        module(evaluator=0.9),
        r"evaluator\(\) must return a function of the model.*got 0\.9",
    ),
    "an evaluator that returns the evaluator": (
        module(evaluator=lambda model: accuracy),
        r"evaluator\(\) must return a finite number, or .* of one for each sample; got <function.*itself returns",
    ),
    "an evaluator without return": (
        module(evaluator=lambda model: None),
        "finite number, or .* of one for each sample; got None .*return statement",
    ),
    "an evaluator of NaN": (
        module(evaluator=lambda model: float("nan")),
        r"evaluator\(\) must return a finite number, or .* of one for each sample; got nan",
    ),
    "an evaluator of a bool": (
        module(evaluator=lambda model: True),
        r"evaluator\(\) must return a finite number, or .* of one for each sample; got True",
    ),
    "an evaluator of many numbers": (
        module(evaluator=lambda model: torch.ones(3, 2)),
        r"finite number, or .*; got tensor.*of shape \(3, 2\): return one value for each sample",
    ),
    "an evaluator of a dict": (
        module(evaluator=lambda model: {"acc": 0.9}),
        "of one for each sample; got {'acc': 0.9}",
    ),
    "an evaluator of two arguments": (
        module(evaluator=lambda model, loader: 0.9),
        r"evaluator\(\) must return a function .*its only argument; it raised",
    ),
    "an evaluator that fails": (
        module(evaluator=lambda model: model(torch.ones(2, 99))),
        r"evaluator\(\) must return .*it raised RuntimeError",
    ),
    "a forgotten @classmethod": (
        module(evaluator=Raw(lambda self: accuracy)),
        r"evaluator must be a classmethod; .*write @classmethod above it",
    ),
    # models
    "a path for a model": (
        module(model="resnet18.pt"),
        r"model\(\) must return a torch.nn.Module; got 'resnet18.pt'.*load",
    ),
    "a state dict for a model": (
        module(model=Made(weights)),
        r"model\(\) must return a torch.nn.Module.*load the state dict",
    ),
    "a class for a model": (module(model=Net), r"model\(\) must return a torch.nn.Module.*an instance of the class"),
    "no model": (module(model=None), r"model\(\) must return a torch.nn.Module; got None"),
    "a model without parameters": (module(model=Made(nn.ReLU)), r"model\(\) must return a model with parameters"),
    "weights of NaN": (module(model=Made(nan_model)), r"model\(\) must have finite weights; hidden.weight"),
    "missing weights": (
        module(model=raising(FileNotFoundError(2, "No such file", "weights.pt"))),
        r"model\(\) must .*'weights.pt'.*__file__",
    ),
    # training
    "a trainer that is no function": (
        module(**{TRAINER: 5}),
        r"trainer\(\) must return a function that trains one epoch",
    ),
    "a trainer that was called": (
        module(**{TRAINER: nn.Linear(1, 1)}),
        r"trainer\(\) must return a function that trains",
    ),
    "a hook without the algorithm's name": (
        module(**{TRAINER: Raw(classmethod(lambda cls: train))}),
        r"trainer\(\) must return when it is called as .*'l2'",
    ),
    "a trainer of another model": (
        module(model=Made(lambda: GLOBAL), **{TRAINER: TRAINS_GLOBAL}),
        "trainer.* must train the model that it is given",
    ),
    "a trainer that never steps": (
        module(**{TRAINER: never_steps}),
        "trainer.* returned without stepping the optimizer",
    ),
    "a trainer without backward": (
        module(**{TRAINER: steps_without_backward}),
        r"trainer.* must move the parameters .* call backward\(\)",
    ),
    "a trainer of detached outputs": (
        module(**{TRAINER: detached_loss}),
        "trainer.*it raised RuntimeError: element 0",
    ),
    "a loss that is infinite": (
        module(**{TRAINER: infinite_loss}, criterion=lambda x, y: functional.cross_entropy(x, y) / 0),
        r"criterion\(\).*finite",
    ),
    "a trainer that adds layers": (module(**{TRAINER: widens}), "trainer.* must change nothing but the values"),
    "a learning rate of 0": (
        module(optimizer_factory=lambda parameters: torch.optim.SGD(parameters, lr=0.0)),
        "must move the parameters.*learning rate",
    ),
    "an optimizer that raises the loss": (
        module(optimizer_factory=lambda parameters: torch.optim.SGD(parameters, lr=0.01, maximize=True)),
        r"optimizer_factory\(\) must make an optimizer that lowers the loss; .*maximize=True",
    ),
    "a criterion of one argument": (module(criterion=lambda outputs: outputs.sum()), "trainer.*it raised TypeError"),
    "a class for a criterion": (
        module(criterion=nn.CrossEntropyLoss),
        r"criterion\(\) must return a loss function, or an instance",
    ),
    "an optimizer for its factory": (
        module(optimizer_factory=Made(lambda: sgd(Net().parameters()))),
        r"optimizer_factory\(\) must return a function that makes",
    ),
    "an optimizer of a global model": (
        module(optimizer_factory=lambda parameters: sgd(GLOBAL.parameters())),
        r"optimizer_factory\(\).*other parameters",
    ),
    "a factory that makes none": (
        module(optimizer_factory=lambda parameters: None),
        r"optimizer_factory\(\) must.*it makes None",
    ),
    "no factory": (module(optimizer_factory=None), r"no optimizer: optimizer_factory\(\) must return"),
    "a model that is frozen": (
        module(model=Made(frozen)),
        r"optimizer_factory\(\) must .*none of them requires a gradient",
    ),
    "a scheduler for its factory": (
        module(lr_scheduler_factory=Made(lambda: StepLR(sgd(Net().parameters()), 1))),
        r"lr_scheduler_factory\(\) must return",
    ),
    "a scheduler that wants a metric": (
        module(lr_scheduler_factory=ReduceLROnPlateau),
        r"lr_scheduler_factory\(\) must make a scheduler whose step\(\) needs",
    ),
    "a scheduler that lacks an argument": (
        module(lr_scheduler_factory=CosineAnnealingLR),
        r"lr_scheduler_factory\(\) must .*it raised TypeError.*T_max",
    ),
    "a number of epochs below 0": (
        module(post_compress_finetuning_epochs=-1),
        r"finetuning_epochs\(\) must return a whole number >= 0.*got -1",
    ),
    # inputs and names
    "example inputs of another shape": (
        module(example_inputs=torch.ones(1, 9)),
        r"example_inputs\(\) must return a tensor",
    ),
    "example inputs of text": (module(example_inputs="digits"), r"example_inputs\(\) must return a tensor"),
    "calibration data that is empty": (
        module(calibration_data=[]),
        r"Mine\.calibration_data\(\) must have at least one batch",
    ),
    "calibration data that is used up": (
        module(calibration_data=Made(lambda: ITERATOR)),
        r"Mine\.calibration_data\(\) must have at least one batch each time",
    ),
    "calibration data that is no data": (
        module(calibration_data=5),
        r"calibration_data\(\) must return an iterable of batches",
    ),
    "a direction in words": (module(higher_is_better=Raw("no")), r"higher_is_better must be True or False; got 'no'"),
    "a misspelled direction": (
        module(higher_is_beter=Raw(False)),
        "Mine.higher_is_beter is no hook .* mean 'higher_is_better'",
    ),
    "a misspelled hook": (
        module(base=Bare, optimiser_factory=sgd),
        "Mine.optimiser_factory is no hook .* mean 'optimizer_factory'",
    ),
}


def dropped(share):
    model = Net(dropout=share)
    model.load_state_dict(weights())
    return model


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_modules_are_refused_before_any_training(name, steps):
    wrong, message = WRONG[name]
    with pytest.raises((ModuleError, ConfigError), match=f"(?s){message}") as refused:
        measure_baseline(wrong, SPACE)
    assert "\n" not in str(refused.value)
    assert len(steps) <= 8 + len(batches()), "no epoch but the one that an evaluator or a trainer took by itself"


def test_there_are_enough_of_them():
    assert len(WRONG) >= 30


WRONG_BUDGETS = {
    "101 %": (budget(maximal_relative_accuracy_degradation=101.0), "--max-relative-drop.* must be below 100"),
    "100 %": (budget(maximal_relative_accuracy_degradation=100.0), "must be below 100"),
}


@pytest.mark.parametrize("name", list(WRONG_BUDGETS))
def test_budgets_that_tolerate_everything(name):
    settings, message = WRONG_BUDGETS[name]
    with pytest.raises(ConfigError, match=message):
        measure_baseline(Right, SPACE, settings)


# What must not be refused


def noisy_but_honest(model):
    return accuracy(model) + 1e-3 * random.random()


def in_percent(model):
    return 100 * accuracy(model)


def on_one_batch(model):
    x, y = data()[1]
    with torch.no_grad():
        return float((model(x[:8]).argmax(1) == y[:8]).float().mean())


def frozen_hidden():
    model = Right.model()
    model.hidden.requires_grad_(False)
    return model


class Answering(Net):
    """Answers with a dict."""

    def forward(self, x):
        return {"logits": super().forward(x), "features": x}


class Regressing(nn.Module):
    """One layer, one output, whose weights are known."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(FEATURES, 1)
        with torch.no_grad():
            self.layer.weight.copy_(torch.arange(1.0, 1 + FEATURES)[None])
            self.layer.bias.fill_(0.5)

    def forward(self, x):
        return self.layer(x)[:, 0]


def truth(x):
    return x @ torch.arange(1.0, 1 + FEATURES) + 0.5 + 0.1 * x[:, 0] ** 2


def squared_error(model):
    x, _ = data()[1]
    with torch.no_grad():
        return functional.mse_loss(model(x), truth(x))


def explained(model):
    x, _ = data()[1]
    with torch.no_grad():
        return 1 - functional.mse_loss(model(x), truth(x)).item() / truth(x).var().item()


def train_regression(model, optimizer, criterion, epoch):
    for x, _ in batches():
        optimizer.zero_grad()
        criterion(model(x), truth(x)).backward()
        optimizer.step()


def gathers_gradients(model, optimizer, criterion, epoch):
    for index, (x, y) in enumerate(batches()):
        criterion(model(x), y).backward()
        if index % 5 == 4:
            optimizer.step()
            optimizer.zero_grad()


def warms_up(model, optimizer, criterion, epoch):
    for index, (x, y) in enumerate(batches()):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * index
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()


def own_loss(model, optimizer, criterion, epoch):
    for x, y in batches():
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def own_optimizer(model, optimizer, criterion, epoch):
    train(model, sgd(model.parameters()), criterion, epoch)


def two_groups(parameters):
    parameters = list(parameters)
    return torch.optim.AdamW([{"params": parameters[:2], "lr": 1e-4}, {"params": parameters[2:]}], lr=1e-3)


def with_lbfgs(model, optimizer, criterion, epoch):
    x, y = data()[0]

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)


def leaves_training_mode(model):
    answer = accuracy(model)
    model.train()
    return answer


def retrieval(model):
    """Share of samples whose nearest other sample, by the angle of the outputs, has their class."""
    x, y = data()[1]
    with torch.no_grad():
        answers = functional.normalize(model(x), dim=1)
        near = (answers @ answers.T).fill_diagonal_(-2).argmax(1)
    return float((y[near] == y).float().mean())


def answers(kind):
    model = kind()
    model.load_state_dict(weights())
    return model


def dict_accuracy(model):
    x, y = data()[1]
    with torch.no_grad():
        return float((model(x)["logits"].argmax(1) == y).float().mean())


def dict_train(model, optimizer, criterion, epoch):
    for x, y in batches():
        optimizer.zero_grad()
        criterion(model(x)["logits"], y).backward()
        optimizer.step()


def majority():
    """Nine of ten samples are of one class."""
    x, y = data()[1]
    kept = torch.cat([torch.nonzero(y == 0)[:72, 0], torch.nonzero(y != 0)[:8, 0]])
    return x[kept], y[kept]


def imbalanced(model):
    x, y = majority()
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


class Weighted(Net):
    """Its output layer's weight is made of two other parameters."""

    def __init__(self):
        super().__init__()
        self.load_state_dict(weights())
        torch.nn.utils.parametrizations.weight_norm(self.head)


class Denoising(nn.Module):
    """Adds to its input what it lacks: with its output layer zeroed it is not much worse."""

    correction = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(3)) / 8

    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Identity(), nn.Linear(FEATURES, FEATURES, bias=False)
        self.head.weight.data = self.correction.clone()

    def forward(self, x):
        return x + self.head(self.hidden(x))


@torch.no_grad()
def similarity(model):
    x = data()[1][0]
    return functional.cosine_similarity(model(x), x + x @ Denoising.correction.T).mean().item()


@torch.no_grad()
def embedded(model):
    """Share of samples that are nearest to the centre of their own class, before the output layer."""
    x, y = data()[1]
    z = torch.relu(model.hidden(x))
    centres = torch.stack([z[y == each].mean(0) for each in range(CLASSES)])
    return (torch.cdist(z, centres).argmin(1) == y).float().mean().item()


def scripted(model):
    return accuracy(torch.jit.script(model))


UNUSUAL = {
    "right": Right,
    "bare": module(base=Bare),
    "a noisy but honest evaluator": module(evaluator=noisy_but_honest),
    "accuracy in percent": module(evaluator=in_percent),
    "a loss that is better when lower": module(evaluator=loss, higher_is_better=Raw(False)),
    "a loss turned round": module(evaluator=lambda model: -loss(model)),
    "a tiny model": module(
        base=Bare, model=Made(Regressing), evaluator=explained, optimizer_factory=lambda p: torch.optim.SGD(p, lr=1e-3)
    ),
    "frozen layers": module(model=Made(frozen_hidden)),
    "regression": module(
        model=Made(Regressing),
        evaluator=squared_error,
        higher_is_better=Raw(False),
        criterion=nn.MSELoss(),
        optimizer_factory=lambda parameters: torch.optim.SGD(parameters, lr=1e-4),
        **{TRAINER: train_regression},
    ),
    "a criterion that is not used": module(criterion=None, **{TRAINER: own_loss}),
    "a criterion that is a function": module(criterion=functional.cross_entropy),
    "an evaluator of one batch": module(evaluator=on_one_batch),
    "gathered gradients": module(**{TRAINER: gathers_gradients}),
    "a warm-up": module(**{TRAINER: warms_up}),
    "an optimizer of its own": module(**{TRAINER: own_optimizer}),
    "groups of parameters": module(optimizer_factory=two_groups),
    "L-BFGS": module(optimizer_factory=lambda p: torch.optim.LBFGS(p, max_iter=2), **{TRAINER: with_lbfgs}),
    "an answer that is a dict": module(
        model=Made(lambda: answers(Answering)), evaluator=dict_accuracy, **{TRAINER: dict_train}
    ),
    "a tensor of no dimensions": module(evaluator=lambda model: torch.tensor(accuracy(model))),
    "a number of numpy": module(evaluator=lambda model: np.float32(accuracy(model))),
    "a scheduler": module(lr_scheduler_factory=lambda optimizer: StepLR(optimizer, 1)),
    "training mode left behind": module(evaluator=leaves_training_mode),
    "retrieval": module(evaluator=retrieval),
    "an embedding, whose output layer is not asked": module(evaluator=embedded),
    "a residual model that is near without its output layer": module(
        base=Bare, model=Made(Denoising), evaluator=similarity
    ),
    "an imbalanced data set": module(evaluator=imbalanced),
    "a static method": module(evaluator=Raw(staticmethod(lambda: accuracy))),
    "a global model": module(model=Made(lambda: GLOBAL)),
    "a sparsifying trainer": module(**{TRAINER: None}, sparsifying_trainer=train),
    "an evaluator that is an object": module(
        evaluator=type("Evaluator", (), {"__call__": lambda self, model: accuracy(model)})()
    ),
}
UNUSUAL["a script of the model"] = module(evaluator=scripted)
UNUSUAL["names like hooks"] = module(
    base=Bare, calibration_dataset=Raw([1, 2]), optimizer=Raw(sgd), is_better=Raw(True)
)
SPACE_OF_HIDDEN = SearchSpace.parse(
    {
        "algorithm_name": {
            "_type": "choice",
            "_value": [{"_name": "level", "config_list::::hidden::sparsity": {"_type": "uniform", "_value": [0, 0.9]}}],
        }
    }
)


@pytest.mark.parametrize("name", list(UNUSUAL))
def test_unusual_modules_are_not_refused(name):
    baseline = measure_baseline(UNUSUAL[name], SPACE_OF_LEVEL)
    assert baseline.preflight.accuracies[0] == baseline.accuracy
    assert baseline.preflight.damaged is not None


def test_an_output_layer_whose_weight_is_made_of_other_parameters():
    found = measure_baseline(module(model=Made(Weighted)), SPACE_OF_HIDDEN).preflight
    assert found.damaged == pytest.approx(1 / CLASSES, abs=0.01)


def test_what_is_found_is_recorded():
    found = measure_baseline(Right, SPACE).preflight
    assert set(found.accuracies) == {accuracy(Right.model())}
    assert found.noise == 0
    assert found.damaged == pytest.approx(1 / CLASSES, abs=0.01)
    assert found.loss == pytest.approx(functional.cross_entropy(Right.model()(batches()[0][0]), batches()[0][1]).item())
    assert 0 < found.step_seconds < found.seconds
    assert 0 < found.evaluation_seconds < found.seconds
    assert found.warnings == ()


def test_noise_is_told_in_figures():
    baseline = measure_baseline(UNUSUAL["a noisy but honest evaluator"], SPACE)
    accuracies = baseline.preflight.accuracies
    assert baseline.noise == max(accuracies) - min(accuracies) > 0
    (warning,) = baseline.preflight.warnings
    assert f"a difference of {baseline.noise:.3g}, where the budget tolerates a loss of" in warning


def test_noise_is_measured_against_the_budget():
    unusual = UNUSUAL["a noisy but honest evaluator"]
    with pytest.raises(ModuleError, match=r"up to less than the budget; .* tolerates a loss of 2e-05"):
        measure_baseline(unusual, SPACE, budget(maximal_absolute_accuracy_degradation=2e-5))


@pytest.mark.parametrize(("percent", "why"), [(0.01, "next to nothing may be lost"), (60.0, "most of it may be lost")])
def test_budgets_that_are_hardly_meant(percent, why):
    settings = budget(maximal_relative_accuracy_degradation=percent)
    with pytest.raises(ConfigError, match=rf"a loss of {percent:g} % of .*{why}.*Confirm it with --yes"):
        measure_baseline(Right, SPACE, settings, confirmed=False)
    (warning,) = measure_baseline(Right, SPACE, settings).preflight.warnings
    assert why in warning


def test_nothing_is_left_of_it():
    """Neither the model, nor hooks, nor the class of loaders, nor the random numbers of a trial."""
    model = Right.model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    iterate = torch.utils.data.DataLoader.__iter__
    measure_baseline(module(model=model), SPACE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_pre_hooks or part._forward_hooks for part in model.modules())
    assert torch.utils.data.DataLoader.__iter__ is iterate
    assert all(parameter.grad is None for parameter in model.parameters())


NO_PREFLIGHT = AccuracyAwareSettings(preflight=False)


@pytest.mark.parametrize(
    "name", ["a loss whose direction was forgotten", "an evaluator of a global model", "a trainer that never steps"]
)
def test_a_refusal_can_be_passed_over(name):
    wrong, _ = WRONG[name]
    measured = measure_baseline(wrong, SPACE, NO_PREFLIGHT)
    assert measured.preflight is None
    assert measured.accuracy == wrong.evaluator()(Right.model())


def test_the_uncompressed_model_is_measured_the_same_without_a_preflight():
    noisy = UNUSUAL["a noisy but honest evaluator"]
    with_it, without = measure_baseline(noisy, SPACE), measure_baseline(noisy, SPACE, NO_PREFLIGHT)
    assert with_it.accuracy == without.accuracy
    assert with_it.measurement == without.measurement


@pytest.mark.parametrize("preflight", [True, False])
def test_one_value_for_each_sample_is_judged_as_their_mean(preflight):
    x, y = data()[1]

    @torch.no_grad()
    def right(model):
        return model.eval()(x).argmax(1) == y

    settings = AccuracyAwareSettings(preflight=preflight)
    alone, each = measure_baseline(Right, SPACE, settings), measure_baseline(module(evaluator=right), SPACE, settings)
    assert each.accuracy == pytest.approx(alone.accuracy, rel=1e-6)
    assert each.accuracy_error == mean_error(right(Right.model()).double().tolist()) > 0
    assert each.paired == preflight
    assert not alone.paired
    assert alone.accuracy_error == (share_error(alone.accuracy, len(x)) if preflight else None)
    if preflight:
        assert each.preflight.damaged == pytest.approx(alone.preflight.damaged)
        assert each.preflight.samples == alone.preflight.samples == len(x)
        assert each.preflight.warnings == ()


@pytest.mark.parametrize(
    ("wrong", "settings", "message"),
    [
        (module(evaluator=lambda model: None), NO_PREFLIGHT, "of one for each sample; got None"),
        (module(evaluator=lambda model: model(1)), NO_PREFLIGHT, r"Mine.evaluator\(\) must return .*it raised TypeErr"),
        (module(optimizer_factory=None), NO_PREFLIGHT, r"no optimizer: optimizer_factory\(\) must return"),
        (module(model="x.pt"), NO_PREFLIGHT, r"model\(\) must return a torch.nn.Module"),
        (Right, NO_PREFLIGHT.with_budget(AccuracyBudget(101.0)), "must be below 100"),
        (Right, NO_PREFLIGHT.with_budget(AccuracyBudget(60.0)), "Confirm it with --yes"),
    ],
)
def test_what_must_hold_without_a_preflight(wrong, settings, message):
    with pytest.raises((ModuleError, ConfigError), match=message):
        measure_baseline(wrong, SPACE, settings, confirmed=False)


def test_hooks_that_algorithms_need_must_be_there_without_a_preflight():
    with pytest.raises(ModuleError, match=r"algorithm 'slim' needs .*criterion\(\).*; Mine returns None"):
        measure_baseline(module(criterion=None), default_space(["slim"]), NO_PREFLIGHT)


class Normed(nn.Module):
    """Cannot take one sample in training mode."""

    def __init__(self):
        super().__init__()
        self.net = Right.model()
        self.norm = nn.BatchNorm1d(CLASSES, affine=False)
        self.norm.running_mean.zero_()

    def forward(self, x):
        return self.norm(self.net(x))


def test_a_check_looks_at_the_model_in_eval_mode():
    seen = []

    def evaluator(model):
        seen.append(model.training)
        return accuracy(model)

    answer = _check(module(model=Made(Normed), evaluator=evaluator), SPACE.wire, AccuracyAwareSettings())
    assert answer["preflight"]["damaged"] == pytest.approx(1 / CLASSES, abs=0.01)
    assert not any(seen)
