"""`compress` gives what the experiment gives, goes on where it was, and refuses wrong arguments before any training."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import autocompress
from autocompress import AccuracyBudget, AutoCompressionExperiment, compress, demo
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named
from autocompress.errors import AutoCompressError, ConfigError, ModuleError, StoreError
from autocompress.result import CompressionResult
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from tests import scripts
from tests.cli.support import invoke
from tests.e2e.support import ROOT, until
from tests.scripts import TRAINING, VALIDATION, X, Y, evaluate, train

QUICK = {"patience_epochs": 1, "initial_training_phase_epochs": 1, "minimal_compression_rate_step": 0.1}


def given(model, **changed):
    """A call of `compress` that works."""
    return {
        "model": model,
        "evaluate": evaluate,
        "train_epoch": train,
        "optimizer": torch.optim.Adam(model.parameters(), lr=0.003),
        "train_loader": TRAINING,
        "validation_loader": VALIDATION,
        "max_drop": "5%",
        "settings": QUICK,
        **changed,
    }


def values(result):
    """Records without what clocks and keys say."""
    keys = {record.key: place for place, record in enumerate(result.records)}
    own = {"seconds": 0, "key": "", "parameters": {}, "checkpoint": ""}
    return [{**r.to_dict(), **own, "start_from": keys.get(r.start_from)} for r in result.records]


def same_weights(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(v, states[1][k]) for k, v in states[0].items())


def test_five_lines_to_a_compressed_model(tmp_path, capsys, monkeypatch):
    """The script's own functions, its loaders and the optimizer that it trained with."""
    monkeypatch.chdir(tmp_path)
    model = scripts.trained()
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    result = compress(**given(model))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items()), "it is not changed"
    assert torch.equal(torch.get_rng_state(), state), "nor are random numbers"
    assert evaluate(result.model, VALIDATION) == result.best.accuracy >= 0.95 * evaluate(model, VALIDATION)
    assert sum(each.numel() for each in result.model.parameters()) < 0.4 * sum(map(torch.numel, model.parameters()))
    assert result.model is result.model
    told = capsys.readouterr().out
    assert "trial 1: l2 at rate 0.5" in told
    assert "best: l2" in told
    assert "of the parameters" in str(result)
    assert "original: the uncompressed model" in result.loading_line
    loaded = autocompress.load_compressed(result.checkpoint, model)
    assert same_weights(loaded, result.model)
    assert result.directory.path.parent == tmp_path / "autocompress-out"
    report = result.report().read_text()
    assert "autocompress.compress(model, evaluate, train_epoch, optimizer," in report
    assert "patience_epochs" in report


def test_the_same_call_goes_on(tmp_path, caplog):
    """What has ended is not trained again; another model, or another search, is refused; another function is named."""
    count = Counter()

    def train_epoch(model, optimizer, epoch):
        count["epochs"] += 1
        train(model, TRAINING, optimizer)

    call = given(scripts.trained(), train_epoch=train_epoch, directory=tmp_path / "search", quiet=True)
    call["settings"] = {**scripts.SETTINGS, "preflight": False}
    first = values(compress(**call, trials=2))
    trained = count["epochs"]
    assert trained == sum(record["epochs"] for record in first)
    whole = compress(**{**call, "model": scripts.trained(), "optimizer": (torch.optim.Adam, {"lr": 0.003})})
    assert values(whole)[:2] == first
    assert count["epochs"] == sum(record.epochs for record in whole.records) > trained
    assert "source has changed" in caplog.text, "the optimizer is given in another way"
    again = compress(**call)
    assert count["epochs"] == sum(record.epochs for record in again.records)
    other = compress(**{**call, "directory": tmp_path / "undisturbed"})
    assert values(other) == values(again)
    assert same_weights(other.model, again.model)
    with pytest.raises(StoreError, match=r"must be of the same model; its weights"):
        compress(**{**call, "model": scripts.net(), "optimizer": (torch.optim.Adam, {"lr": 0.003})})
    with pytest.raises(StoreError, match=r"settings.seed is 0, not 1"):
        compress(**{**call, "settings": {**call["settings"], "seed": 1}})


def test_a_directory_alone(tmp_path):
    """It holds no functions: it is looked at, and gone on with by its own script."""
    model = scripts.trained()
    compress(**given(model, directory=tmp_path / "search", quiet=True), trials=1)
    opened = CompressionResult(tmp_path / "search")
    with pytest.raises(
        ModuleError, match=r"directory of autocompress.compress .* names no module .*load_model\(model\)"
    ):
        opened.load_model()
    assert opened.load_model(model) is not None
    resumed = invoke("resume", tmp_path / "search")
    assert resumed.exit_code == 2
    assert "the same call with directory=" in resumed.output
    assert invoke("status", tmp_path / "search").exit_code == 0


class Digits(demo.DigitsModule):
    """Its model is built once: building it draws random numbers."""

    NET = None

    @classmethod
    def model(cls):
        cls.NET = cls.NET or demo.DigitsModule.model()
        return cls.NET


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "trials"), [("l2", 3), ("l2+qat", 1)])
def test_digits_give_the_answer_of_the_experiment(algorithm, trials, tmp_path):
    settings = AccuracyAwareSettings.from_dict(QUICK)
    module, space = ModuleReference.of(Digits), default_space([algorithm])
    search = engine_named("local").create(
        SearchRequest(module, space, tmp_path / "experiment", settings, trials=trials)
    )
    started = time.monotonic()
    assert search.run()
    seconds = time.monotonic() - started
    model = Digits.model()
    started = time.monotonic()
    result = compress(
        model,
        demo.accuracy_on("validation"),
        demo.train_epoch,
        Digits.optimizer_factory(),
        criterion=nn.CrossEntropyLoss(),
        calibration_data=Digits.calibration_data(),
        holdout_evaluate=demo.accuracy_on("holdout"),
        algorithm=algorithm,
        settings=settings,
        trials=trials,
        directory=tmp_path / "call",
        quiet=True,
    )
    print(f"the experiment takes {seconds:.1f} s, the call {time.monotonic() - started:.1f} s")
    assert values(result) == values(search.result)
    assert result.verdict == search.result.verdict
    assert same_weights(result.model, search.result.load_model())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_train_nothing_twice(tmp_path):
    """Killed at random moments and started again, it ends with the answer of a search that was left alone."""
    undisturbed = scripts.main(tmp_path / "undisturbed", tmp_path / "undisturbed.log")
    log, generator, ended = tmp_path / "epochs.log", random.Random(0), {}
    log.touch()
    command = [sys.executable, "-m", "tests.scripts", str(tmp_path / "search"), str(log)]
    for _ in range(3):
        begun, slowly = trained_epochs(log).total(), {**os.environ, "SECONDS_PER_EPOCH": "0.3"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env=slowly)
        launcher = SimpleNamespace(process=process, printed=str)
        until(lambda begun=begun: trained_epochs(log).total() > begun, launcher)
        time.sleep(generator.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was killed before its end"
        opened, trained = CompressionResult(tmp_path / "search"), trained_epochs(log)
        widths = {scripts.width(opened, record) for record in opened.records}
        ended = {**{width: trained[width] for width in widths}, **ended}
    result = scripts.main(tmp_path / "search", log)
    assert values(result) == values(undisturbed)
    assert same_weights(result.model, undisturbed.model)
    assert len(ended) > 1
    assert {width: trained_epochs(log)[width] for width in ended} == ended


def trained_epochs(log):
    """How often an epoch was trained of models whose first layer has a width."""
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines())


def training_evaluation(model, loader):
    accuracy = evaluate(model, loader)
    train(model, TRAINING, torch.optim.SGD(model.parameters(), lr=0.1))
    return accuracy


def loss(model, loader):
    with torch.no_grad():
        return sum(nn.functional.cross_entropy(model.eval()(x), y).item() for x, y in loader)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


WRONG = {
    "the functions interchanged": (
        lambda model: {"evaluate": train, "train_epoch": evaluate},
        r"^evaluate must evaluate the model and not train it; it takes 'optimizer'.*interchanged\?$",
    ),
    "a trainer that evaluates": (
        lambda model: {"train_epoch": lambda model, optimizer: evaluate(model, VALIDATION)},
        r"^train_epoch must train the model that it is given when it is called; it returned without stepping",
    ),
    "a trainer without an optimizer": (
        lambda model: {"train_epoch": lambda model: None},
        r"^train_epoch must take the optimizer, by the name optimizer, optim or opt",
    ),
    "an evaluation that trains": (
        lambda model: {"evaluate": training_evaluation},
        r"^evaluate must not change the model; it changes '0.weight'",
    ),
    "a loss without direction": (
        lambda model: {"evaluate": loss},
        r"^higher_is_better must be the direction of evaluate: .* set higher_is_better = False",
    ),
    "an optimizer of another model": (
        lambda model: {"optimizer": sgd(scripts.net())},
        r"^optimizer must be of the model that is given; 6 of its 6 parameters are of another one",
    ),
    "an optimizer at the end of its schedule": (
        lambda model: {"optimizer": sgd(model, lr=0.0)},
        r"^optimizer must have a learning rate > 0",
    ),
    "a learning rate for an optimizer": (
        lambda model: {"optimizer": 0.1},
        r"^optimizer must be an optimizer of the model, a function .*; got 0.1",
    ),
    "an optimizer of the given model, whatever is given": (
        lambda model: {"optimizer": lambda parameters: sgd(model)},
        r"^optimizer must be a function that makes an optimizer of model.parameters\(\); it makes one of other",
    ),
    "batches of another structure": (
        lambda model: {"calibration_data": [{"pixels": X[:5], "target": Y[:5]}]},
        r"^calibration_data must be batches that model\(\) runs on",
    ),
    "targets before inputs": (
        lambda model: {"train_loader": [(Y[:5], X[:5])], "train_epoch": lambda model, optimizer: None},
        r"^train_loader must be batches that model\(\) runs on",
    ),
    "an iterator for a loader": (
        lambda model: {"train_loader": iter(TRAINING)},
        r"^train_loader must give its batches in every epoch, as a DataLoader does; got",
    ),
    "inputs of another shape": (
        lambda model: {"example_inputs": torch.ones(1, 3, 4)},
        r"^example_inputs must be a tensor, .* that model\(\) runs on",
    ),
    "an unknown argument": (
        lambda model: {"train_epoch": lambda args, model, optimizer: None},
        r"^train_epoch must take arguments by names that are known; it needs 'args' \(known: model or net, optimizer",
    ),
    "a loader that is not given": (
        lambda model: {"train_loader": None},
        r"^train_loader must be given, as train_epoch takes 'loader'$",
    ),
    "an evaluation of a global model": (
        lambda model: {"evaluate": lambda: evaluate(model, VALIDATION)},
        r"^evaluate must take the model",
    ),
    "an evaluation that passes over its argument": (
        lambda model: {"evaluate": lambda _: evaluate(model, VALIDATION)},
        r"^evaluate must depend on the model that it is given",
    ),
    "a pair of loss and accuracy": (
        lambda model: {"evaluate": lambda model: (0.1, evaluate(model, VALIDATION))},
        r"^evaluate must return a finite number, .*; got \(0.1, 0.9",
    ),
    "an evaluation that fails": (
        lambda model: {"evaluate": lambda model: model(torch.ones(3, 4))},
        r"^evaluate must measure the model that it is given; it raised RuntimeError",
    ),
    "all accuracy": (
        lambda model: {"max_drop": 1},
        r"tolerates a loss of 10\d % .* with budget=AccuracyBudget\(...\)$",
    ),
    "a share without its sign": (lambda model: {"max_drop": "1"}, r"^max_drop must be a share .* such as '1%'.*'1'$"),
    "two budgets": (lambda model: {"budget": AccuracyBudget(1.0)}, r"^max_drop or budget must be given, not both"),
    "a scheduler of another optimizer": (
        lambda model: {"scheduler": torch.optim.lr_scheduler.StepLR(sgd(model), 1)},
        r"^scheduler must be a function that makes one of the optimizer",
    ),
    "an algorithm that needs a criterion": (
        lambda model: {"algorithm": "slim"},
        r"^algorithm 'slim' needs criterion; not given$",
    ),
    "no trial": (lambda model: {"trials": 0}, r"^trials must be a whole number >= 1"),
    "no algorithm": (lambda model: {"algorithm": []}, r"must have at least one algorithm .*; got none$"),
    "a state dict": (lambda model: {"model": model.state_dict()}, r"^model must be a Module; got"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_get_one_sentence_before_any_training(what, tmp_path):
    model = scripts.trained()
    changed, sentence = WRONG[what]
    with pytest.raises(AutoCompressError, match=sentence) as refused:
        compress(**{**given(model, directory=tmp_path / "search", quiet=True), **changed(model)})
    assert isinstance(refused.value, ConfigError | ModuleError)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("what", [lambda model: 1.0, nn.Linear(2, 2)])
def test_functions_are_for_this_call_and_not_for_nni(what):
    with pytest.raises(ModuleError, match=r"must be a class; got .*autocompress.compress takes models and functions$"):
        AutoCompressionExperiment(what)


def test_other_directions_budgets_and_loss(tmp_path):
    """A loss whose direction is given, and a budget in its unit."""
    model = scripts.trained()
    call = given(model, evaluate=loss, max_drop=1.0, higher_is_better=False, directory=tmp_path / "search", quiet=True)
    result = compress(**call, trials=2)
    assert result.threshold == pytest.approx(loss(model, VALIDATION) + 1.0)
    assert loss(result.model, VALIDATION) == pytest.approx(result.best.accuracy)


def test_without_training(tmp_path):
    """Models are compressed and evaluated; inputs are those of the evaluation."""
    result = compress(
        scripts.trained(),
        evaluate,
        validation_loader=VALIDATION,
        max_drop=0.1,
        directory=tmp_path,
        trials=2,
        quiet=True,
    )
    assert [record.epochs for record in result.records] == [0, 0]
    assert result.model[0].out_features < 32


def test_the_live_display_is_for_terminals(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal to rich
    compress(**given(scripts.trained(), directory=tmp_path / "search"), trials=1)
    told = capsys.readouterr().out
    assert "of the parameters removed" in told
    assert "\x1b[" in told
    assert "trial 1: l2" not in told


def test_ctrl_c(tmp_path):
    """It says how to go on, and the same call gives what an undisturbed one gives."""

    def interrupted(model, optimizer):
        if model[0].out_features < 32:
            raise KeyboardInterrupt
        train(model, TRAINING, optimizer)

    call = given(scripts.trained(), train_epoch=interrupted, directory=tmp_path / "search", quiet=True)
    with pytest.raises(KeyboardInterrupt, match=r"the same call with directory='.*search' goes on"):
        compress(**{**call, "settings": scripts.SETTINGS})
    call |= {"settings": scripts.SETTINGS, "train_epoch": train}
    result = compress(**call)
    undisturbed = compress(**{**call, "directory": tmp_path / "undisturbed"})
    assert values(result) == values(undisturbed)
    assert any(record.epochs for record in result.records)
