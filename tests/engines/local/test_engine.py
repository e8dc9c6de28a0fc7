"""Searches of a module in this process: the trials, the records and what happens when one is interrupted."""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from autocompress import AbstractAutoCompressionModule, CompressionResult
from autocompress.compression.module import example_inputs
from autocompress.compression.module_loading import ModuleReference
from autocompress.engines.base import SearchRequest, engine_named, engine_of
from autocompress.errors import ConfigError, InfeasibleBudgetError, ModuleError, StoreError, TrialError
from autocompress.plan import ExperimentPlan
from autocompress.search_space import default_space
from autocompress.settings import AccuracyAwareSettings
from autocompress.store import ExperimentDirectory, Ledger
from autocompress.testing import cliff
from autocompress.testing.zoo import GroupedCnn
from autocompress.tracking import Callback
from tests import curve_modules
from tests.cli.support import invoke
from tests.e2e.launch import search_space
from tests.engines.optuna.test_sampler import expected_rates

ENGINE = engine_named("local")
QUICK = {"preflight": False}


def request_of(module, directory, *names, settings=None, space=None, **options):
    return SearchRequest(
        ModuleReference.of(module),
        space or search_space(*(names or ["l2"])),
        directory,
        settings=AccuracyAwareSettings.from_dict({**QUICK, **(settings or {})}),
        **options,
    )


def created(module, directory, *names, **options):
    return ENGINE.create(request_of(module, directory, *names, **options))


def rates(search, algorithm="l2"):
    return [record.requested_rate for record in search.result.records if record.algorithm == algorithm]


def test_it_finds_what_the_rule_finds(tmp_path):
    search = created(curve_modules.Cliff, tmp_path / "search", "l2", "level")
    assert search.url is None
    assert search.run()
    assert search.url == ""
    assert rates(search) == rates(search, "level") == expected_rates(cliff(0.62))
    assert search.result.best.requested_rate == pytest.approx(0.6)
    assert search.result.verdict.feasible, "the best model was loaded again and evaluated"
    assert search.result.load_model() is not None
    plan = ExperimentPlan.read(ExperimentDirectory(tmp_path / "search"))
    assert engine_of(plan) is ENGINE


@dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    task: str = "classify"


class Labelled(nn.Module):
    """Called as Hugging Face's models are: by name, with labels, and with an object as its output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 2)

    def forward(self, ids=None, mask=None, kinds=None, labels=None):
        x = ids if mask is None else ids * mask
        logits = self.head(torch.relu(self.second(torch.relu(self.first(x)))))
        return Answer(logits, None if labels is None else nn.functional.cross_entropy(logits, labels))


class ByName(AbstractAutoCompressionModule):
    """Of a wrapped model; its trainer takes the loss of the model's output."""

    ids = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    batch: ClassVar = {"ids": ids, "labels": (ids[:, 0] > 0).long()}

    @classmethod
    def model(cls):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = Labelled()
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for epoch in range(30):
            cls.train(net, optimizer, None, epoch)
        return nn.DataParallel(net.eval())

    @classmethod
    def evaluator(cls):
        def accuracy(model):
            with torch.no_grad():
                return float((model.eval()(**cls.batch).logits.argmax(1) == cls.batch["labels"]).float().mean())

        return accuracy

    @classmethod
    def optimizer_factory(cls):
        return lambda parameters: torch.optim.Adam(parameters, 0.01)

    @classmethod
    def criterion(cls):
        return nn.CrossEntropyLoss()

    @classmethod
    def train(cls, model, optimizer, criterion, epoch):
        optimizer.zero_grad()
        model(**cls.batch).loss.backward()
        optimizer.step()

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return cls.train

    @classmethod
    def calibration_data(cls):
        return [cls.batch]


class WithoutLabels(ByName):
    """Int8 models compute no loss: the trainer does."""

    @classmethod
    def train(cls, model, optimizer, criterion, epoch):
        optimizer.zero_grad()
        (criterion or nn.functional.cross_entropy)(model(ids=cls.ids).logits, cls.batch["labels"]).backward()
        optimizer.step()

    @classmethod
    def evaluator(cls):
        def accuracy(model):
            with torch.no_grad():
                return float((model.eval()(ids=cls.ids).logits.argmax(1) == cls.batch["labels"]).float().mean())

        return accuracy

    @classmethod
    def calibration_data(cls):
        return [{"ids": cls.ids}]


@pytest.mark.parametrize(
    ("module", "algorithm"),
    [
        (ByName, "level"),
        pytest.param(ByName, "apoz", marks=pytest.mark.slow),
        pytest.param(WithoutLabels, "qat", marks=pytest.mark.slow),
    ],
)
def test_a_model_that_is_called_by_name_in_a_wrapper(module, algorithm, tmp_path):
    settings = {"preflight": True, "maximal_relative_accuracy_degradation": 10.0, "patience_epochs": 2}
    search = created(module, tmp_path / "search", settings=settings, space=default_space([algorithm]), trials=1)
    assert search.run()
    (record,) = search.result.records
    assert record.state == "completed"
    assert record.achieved_rate > 0.4
    loaded = search.result.load_model()
    assert module.evaluator()(loaded) == pytest.approx(record.accuracy)
    report = search.result.export(tmp_path / "small.pt2")
    assert report.dynamic_batch
    found = torch.export.load(report.path).module()(*example_inputs(module))
    assert torch.allclose(found["logits"], loaded(*example_inputs(module)).logits, atol=1e-5)


class InterruptedAt(curve_modules.Cliff):
    """Ctrl-C comes while the second trial trains, once."""

    trained, come = 0, False

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        if cls.rate(model) > 0.55 and not InterruptedAt.come:
            InterruptedAt.come = True
            raise KeyboardInterrupt
        InterruptedAt.trained += 1
        super().train_epoch(model, optimizer, criterion, epoch)


def test_an_interrupted_search_is_gone_on_with_and_nothing_finished_is_trained_again(tmp_path):
    trained = {"preset": "nncf"}  # each of them
    undisturbed = created(curve_modules.Cliff, tmp_path / "undisturbed", settings=trained)
    undisturbed.run()
    search = created(InterruptedAt, tmp_path / "search", settings=trained)
    assert search.run() is False
    assert rates(search) == rates(undisturbed)[:1]
    before = InterruptedAt.trained
    again = ENGINE.open(tmp_path / "search")
    assert again.run()
    assert rates(again) == rates(undisturbed)
    first, *others = (record.epochs for record in again.result.records)
    assert InterruptedAt.trained - before == sum(others)
    assert before == first
    assert again.run(), "an ended search has nothing to do"
    assert InterruptedAt.trained - before == sum(others)


def test_the_number_of_trials_and_stop(tmp_path):
    search = created(curve_modules.Cliff, tmp_path / "search", trials=2)
    assert search.run()
    assert len(rates(search)) == 2
    more = ENGINE.open(tmp_path / "search", trials=1)
    more.run()
    assert len(rates(more)) == 3
    rest = ENGINE.open(tmp_path / "search")
    rest.stop()
    assert rest.run() is False
    assert len(rates(rest)) == 3


@pytest.mark.slow
def test_a_real_net_gives_the_records_of_a_trial_process(tmp_path):
    """The random numbers of this process neither change the result nor are changed by it."""
    settings = {"minimal_compression_rate_step": 0.1, "patience_epochs": 1, "initial_training_phase_epochs": 1}
    given = {"settings": settings, "space": default_space(["l2"])}
    torch.manual_seed(5)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    search = created(GroupedCnn, tmp_path / "one", **given)
    search.run()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])
    baseline = search.result.baseline
    other = engine_named("optuna").create(request_of(GroupedCnn, tmp_path / "two", baseline=baseline, **given))
    other.run()
    told = [[{**record.to_dict(), "seconds": 0} for record in each.result.records] for each in (search, other)]
    assert told[0] == told[1]
    one, two = (each.result.load_model().state_dict() for each in (search, other))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_failures_end_it_with_their_reason(tmp_path):
    search = created(curve_modules.RaisesAlways, tmp_path / "search", settings={"initial_compression_rate": 0.9})
    with pytest.raises(TrialError, match="the trainer is broken"):
        search.run()
    with pytest.raises(InfeasibleBudgetError):
        created(curve_modules.Never, tmp_path / "never").run()


def test_nothing_is_written_where_the_module_is_wrong(tmp_path):
    search = created(curve_modules.NoOptimizer, tmp_path / "search")
    with pytest.raises(ModuleError, match="optimizer"):
        search.run()
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tuner": "TPE"}, "tuner must be AdaptiveCompression on the engine 'local'; got 'TPE'"),
        ({"concurrency": 2}, "concurrency must be 1"),
        ({"settings": {"maximal_trial_seconds": 60.0}}, "maximal_trial_seconds must be null on the engine 'local'"),
        ({"options": {"storage": "sqlite:///x.db"}}, "storage is not for the engine 'local'"),
    ],
)
def test_what_needs_other_processes_is_refused(tmp_path, options, named):
    with pytest.raises(ConfigError, match=named):
        created(curve_modules.Cliff, tmp_path / "search", **options)


def test_another_search_in_the_directory_is_refused(tmp_path):
    created(curve_modules.Cliff, tmp_path / "search", trials=1).run()
    other = created(curve_modules.Cliff, tmp_path / "search", settings={"patience_epochs": 7})
    with pytest.raises(StoreError, match=r"settings.patience_epochs is 3, not 7"):
        other.run()
    with pytest.raises(StoreError):
        ENGINE.open(tmp_path / "nowhere")


def test_callbacks_and_the_command_line_see_it(tmp_path):
    ended = []

    class Notes(Callback):
        def on_trial_end(self, record):
            ended.append(record.requested_rate)

    search = created(curve_modules.Cliff, tmp_path / "search")
    search.run([Notes()])
    assert ended == rates(search)
    answer = invoke("status", tmp_path / "search")
    assert answer.exit_code == 0, answer.output
    assert "Cliff" in answer.output
    page = CompressionResult(tmp_path / "search").report().read_text()
    assert "--engine local" in page
    assert ENGINE.show(tmp_path / "search").startswith("autocompress report")
    assert not ENGINE.owners(search.result.plan, tmp_path / "search")


def test_a_trial_process_does_not_launch_it_again(tmp_path, monkeypatch):
    search = created(curve_modules.Cliff, tmp_path / "search")
    monkeypatch.setitem(os.environ, "AUTOCOMPRESS_CHILD", "1")
    with pytest.raises(ModuleError, match="__main__"):
        search.run()


def test_a_training_loop_is_gone_on_with_by_its_own_script(tmp_path, no_report):
    from tests.engines.local.support import run, told

    loop, _, _ = run(told(cliff(0.62)), tmp_path)
    with pytest.raises(ConfigError, match=r"its own script goes on with it, by loop.run\(..., resume=directory\)"):
        engine_of(loop.result.plan)
    with pytest.raises(StoreError, match="must be of the engine 'local'; it is of 'loop'"):
        ENGINE.open(loop.directory)
    assert Ledger(ExperimentDirectory(loop.directory)).records == loop.result.records
    answer = invoke("resume", loop.directory)
    assert answer.exit_code != 0
    assert "resume=directory" in answer.output
