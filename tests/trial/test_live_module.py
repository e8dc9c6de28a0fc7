"""Modules made of a model and functions: which arguments these are given, and what identifies them."""

import functools
import subprocess
import sys

import pytest
import torch
from torch import nn

from autocompress.compression.module import require_module_class
from autocompress.compression.module_loading import LiveReference, ModuleReference, reference_of
from autocompress.engines.base import SearchRequest
from autocompress.errors import ConfigError, ModuleError
from autocompress.trial.live_module import NAMES, NamedFunction, live_module
from tests import scripts
from tests.e2e.support import ROOT

GIVEN = {"criterion": nn.MSELoss(), "train_loader": [1], "validation_loader": [2]}
VALUES = {"model": "m", "optimizer": "o", "epoch": 3, "device": "d", **GIVEN}


def noted(function):
    """What a training function is called with, given by names."""
    return NamedFunction.training(function, GIVEN)(**VALUES)


class Trainer:
    def train(self, model, opt):
        return model, opt

    def __call__(self, net, optimizer, *, epoch):
        return net, optimizer, epoch


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        (lambda model, optimizer: (model, optimizer), ("m", "o")),
        (lambda m, optimizer: (m, optimizer), ("m", "o")),
        (lambda optimizer, loader, net: (optimizer, loader, net), ("o", [1], "m")),
        (lambda model, device, train_loader, optimizer, epoch: (device, train_loader, epoch), ("d", [1], 3)),
        (lambda model, optim, loss_fn, val_loader: (loss_fn, val_loader), (GIVEN["criterion"], [2])),
        (lambda model, optimizer, epoch=0, verbose=False: (epoch, verbose), (3, False)),
        (lambda model, optimizer, *rest, **others: (model, rest, others), ("m", (), {})),
        (functools.partial(lambda args, model, optimizer: (args, model), "args"), ("args", "m")),
        (functools.partial(lambda model, optimizer, args: (args, model), args=5), (5, "m")),
        (Trainer().train, ("m", "o")),
        (Trainer(), ("m", "o", 3)),
    ],
)
def test_arguments_are_found_by_their_names(function, answer):
    assert noted(function) == answer


def test_arguments_by_position_only():
    names = {}
    exec("def train(model, optimizer, /, epoch): return model, optimizer, epoch", names)
    assert noted(names["train"]) == ("m", "o", 3)


def test_a_loader_is_the_functions_own():
    found = NamedFunction.evaluation(lambda model, loader: loader, GIVEN)
    assert found(**VALUES) == [2]
    assert NamedFunction.evaluation(lambda anything: anything, GIVEN)(**VALUES) == "m"


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda m, o: None, "it needs 'o'"),
        (lambda optimizer: None, "train_epoch must take the model"),
        (lambda: None, "train_epoch must take the model"),
        (nn.Linear(1, 1), r"train_epoch must be a function; got Linear"),
        (dict, r"train_epoch must be a function; got <class 'dict'>"),
        (5, r"train_epoch must be a function; got 5"),
    ],
)
def test_functions_that_cannot_be_called(function, sentence):
    with pytest.raises(ConfigError, match=sentence):
        NamedFunction.training(function, GIVEN)


def test_no_name_has_two_meanings():
    names = [each for own in NAMES.values() for each in own]
    assert len(names) == len(set(names))


def module(**changed):
    model = changed.pop("model", None) or scripts.trained()
    return live_module(
        model,
        **{
            "evaluate": scripts.evaluate,
            "train_epoch": scripts.train,
            "optimizer": (torch.optim.SGD, {"lr": 0.1}),
            "train_loader": scripts.TRAINING,
            "validation_loader": scripts.VALIDATION,
            **changed,
        },
    )


def codes(**changed):
    reference = reference_of(module(**changed))
    return reference.model, reference.code


def test_it_is_a_module():
    made = module()
    require_module_class(made)
    assert made.__name__ == "Sequential"
    assert made.evaluator()(made.model()) == scripts.evaluate(made.model(), scripts.VALIDATION)
    assert made.criterion() is None
    batches = made.calibration_data()
    assert len(list(batches)) == len(list(batches)) == len(scripts.TRAINING)


def test_many_batches_of_a_loader_are_not_run_through():
    drawn = []

    class Loader:
        def __iter__(self):
            return iter(drawn.append(1) or torch.ones(2, 8) for _ in range(1000))

    assert len(list(module(train_loader=Loader()).calibration_data())) == 20
    assert len(drawn) == 20


def test_what_identifies_it():
    """Weights and instructions do; names of variables' values do not, nor does the order of a set."""
    own = codes()
    assert codes() == own
    assert codes(model=scripts.net())[0] != own[0]
    assert codes(optimizer=(torch.optim.SGD, {"lr": 0.2}))[1] != own[1]
    assert codes(evaluate=lambda model: scripts.evaluate(model, scripts.VALIDATION))[1] != own[1]
    assert codes(higher_is_better=False)[1] != own[1]
    assert codes(criterion=nn.CrossEntropyLoss(label_smoothing=0.1)) != codes(criterion=nn.CrossEntropyLoss())

    def counted(start):
        return lambda model: scripts.evaluate(model, scripts.VALIDATION) if start in {"a", "b", "c"} else 0

    assert codes(evaluate=counted("a")) == codes(evaluate=counted("b"))


CODE = "from tests.trial.test_live_module import codes, in_a_set; print(codes(evaluate=in_a_set))"


def in_a_set(model):
    return scripts.evaluate(model, scripts.VALIDATION) if len("abc") in {3, "x", "y", "z"} else 0


@pytest.mark.slow
def test_another_process_finds_the_same():
    told = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(codes(evaluate=in_a_set))


def test_no_other_process_can_have_it(tmp_path):
    made = module()
    reference = reference_of(made)
    assert isinstance(reference, LiveReference)
    with pytest.raises(ModuleError, match=r"it is made of objects of this process, .* the engine 'local' runs that"):
        ModuleReference.of(made)
    request = SearchRequest(reference, "space.json", tmp_path)
    with pytest.raises(ModuleError, match="made of objects of this process"):
        _ = request.importable


def test_a_trainer_and_its_optimizer_come_together():
    with pytest.raises(ConfigError, match=r"^optimizer must be given beside train_epoch"):
        module(optimizer=None)
    with pytest.raises(ConfigError, match=r"^train_epoch must be given beside optimizer"):
        module(train_epoch=None)


def test_errors_of_functions_name_them():
    def broken(model, optimizer):
        raise RuntimeError("no data")

    made = module(train_epoch=broken)
    trainer = made.post_compress_finetuning_trainer("l2")
    with pytest.raises(ModuleError, match=r"^train_epoch must train .*; it raised RuntimeError: no data") as raised:
        trainer(made.model(), None, None, 0)
    assert isinstance(raised.value.__cause__, RuntimeError)
