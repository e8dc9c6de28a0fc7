"""What the loops say of what was found, and what they do when something is wrong."""

import copy
import random

import numpy as np
import pytest
import torch

from autocompress import load_compressed
from autocompress.engines.local import training
from autocompress.errors import ConfigError, InfeasibleBudgetError, ModuleError, StoreError, TrialError
from autocompress.nncf import (
    AdaptiveCompressionTrainingLoop,
    CompressionConfig,
    EarlyExitCompressionTrainingLoop,
    create_accuracy_aware_training_loop,
    create_compressed_model,
)
from autocompress.search.noise import mean_error, paired_error
from autocompress.testing import cliff, flat, never
from tests.cli.support import invoke
from tests.engines.local.support import PARAMS, SIZE, Net, config_of, loop_of, rates, run, told

pytestmark = pytest.mark.usefixtures("no_report")

TEN_PERCENT = {"maximal_relative_accuracy_degradation": 10.0}


def test_each_mode_has_its_loop(tmp_path):
    for mode, kind in (
        ("adaptive_compression_level", AdaptiveCompressionTrainingLoop),
        ("early_exit", EarlyExitCompressionTrainingLoop),
    ):
        config = config_of({}, mode=mode)
        controller, _ = create_compressed_model(Net(), config)
        assert type(create_accuracy_aware_training_loop(config, controller, 0.9)) is kind


def test_tensorboard_gets_nncfs_tags(tmp_path):
    class Writer:
        def __init__(self):
            self.scalars = {}

        def add_scalar(self, tag, value, step):
            self.scalars.setdefault(tag, []).append((step, value))

    writer = Writer()
    loop, _, _ = run(told(cliff(0.62)), tmp_path, functions={"tensorboard_writer": writer})
    scalars = writer.scalars
    targets = [value for _, value in scalars["compression/accuracy_aware/target_compression_rate"]]
    assert targets == rates(loop)
    assert len(scalars["compression/accuracy_aware/compression_rate_step"]) == len(targets)
    budgets = [round(value, 6) for _, value in scalars["val/accuracy_aware/accuracy_budget"]]
    assert budgets == [round(v - 0.891, 6) for _, v in scalars["val/accuracy_aware/metric_value"]]
    assert len(scalars["compression/statistics/parameters_removed"]) == len(targets)
    steps = [step for step, _ in scalars["val/accuracy_aware/metric_value"]]
    assert steps == sorted(steps)
    assert steps[-1] == sum(record.epochs for record in loop.result.records)


def test_statistics_and_the_verdict_tell_of_the_model_that_is_given_back(tmp_path):
    loop, model, _ = run(told(cliff(0.62)), tmp_path)
    found = loop.statistics
    zeros = float((model.layer.weight == 0).float().mean())
    assert found.achieved_rate == pytest.approx(zeros)
    assert found.compressed_accuracy == 0.9
    assert found.relative_accuracy_degradation == 0.0
    assert found.trials == len(loop.result.records)
    assert "rates" in str(found)
    assert "within the accuracy budget" in loop.verdict


def test_nothing_within_the_budget(tmp_path):
    config = config_of(PARAMS, target=0.2)
    with pytest.raises(InfeasibleBudgetError) as infeasible:
        run(told(never()), tmp_path, config=config)
    assert infeasible.value.best_accuracy == 0.1
    assert [record.requested_rate for record in infeasible.value.trials] == [0.2, 0.1, 0.0]


def test_the_verdict_where_nothing_is_within_the_budget(tmp_path):
    loop, model, teller = loop_of(config_of(PARAMS), 0.9, told(never()))
    with pytest.raises(InfeasibleBudgetError):
        loop.run(model, teller.train_epoch, teller.validate, preflight=False, log_dir=tmp_path)
    assert "Nothing stayed within the accuracy budget" in loop.verdict
    with pytest.raises(InfeasibleBudgetError):
        _ = loop.statistics


def test_a_metric_that_is_no_number_fails_its_rate_only(tmp_path):
    loop, _, _ = run(lambda rate, *_: float("nan") if rate > 0.62 else 0.9, tmp_path)
    failed = [record for record in loop.result.records if record.state == "failed"]
    assert failed
    assert "validate_fn must return a finite number, or " in failed[0].error
    assert "; got nan" in failed[0].error
    assert loop.result.best.requested_rate == 0.6


def test_lower_is_better(tmp_path):
    loop, _, _ = run(lambda rate, *_: 1.0 if rate <= 0.62 else 2.0, tmp_path, uncompressed=1.0, higher_is_better=False)
    assert loop.result.best.requested_rate == 0.6


def test_what_a_user_raises_reaches_the_user_and_loses_nothing(tmp_path):
    calls = []

    def train_epoch(controller, model, **_):
        calls.append(controller.compression_rate)
        if controller.compression_rate > 0.62:
            raise RuntimeError("the disk of the user is on fire")

    loop, model, teller = loop_of(config_of(PARAMS), 0.9, told(flat()))
    with pytest.raises(RuntimeError, match="on fire"):
        loop.run(model, train_epoch, teller.validate, preflight=False, log_dir=tmp_path)
    assert rates(loop) == [0.5, 0.6]
    other, model, teller = loop_of(config_of(PARAMS), 0.9, told(cliff(0.62)))
    other.run(model, teller.train_epoch, teller.validate, resume=loop.directory)
    assert rates(other)[:2] == [0.5, 0.6]
    assert all(rate not in (0.5, 0.6) for rate, at_rate, _ in teller.told[:-1]), "they are not trained again"


def test_a_run_of_another_search_is_not_resumed(tmp_path):
    loop, _, _ = run(told(cliff(0.62)), tmp_path)
    for params, uncompressed, name in (({**PARAMS, "patience_epochs": 3}, 0.9, "settings"), (PARAMS, 0.8, "baseline")):
        other, model, teller = loop_of(config_of(params), uncompressed, told(cliff(0.62)))
        with pytest.raises(StoreError, match=f"its {name} is another one"):
            other.run(model, teller.train_epoch, teller.validate, resume=loop.directory)
    with pytest.raises(StoreError, match="holds no experiment"):
        other.run(model, teller.train_epoch, teller.validate, resume=tmp_path / "nowhere")


def test_an_ended_run_that_is_resumed_gives_its_model(tmp_path):
    loop, model, _ = run(told(cliff(0.62)), tmp_path)
    other, again, teller = loop_of(config_of(PARAMS), 0.9, told(cliff(0.62)))
    given = other.run(again, teller.train_epoch, teller.validate, resume=loop.directory)
    assert teller.total == 0
    assert all(torch.equal(each, given.state_dict()[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    ("tell", "left"), [("cliff", [0.0273, 0.1273, 0.2273]), ("flat", [0.0273, 0.1273, 0.2273])], ids=["cliff", "flat"]
)
def test_the_search_begins_where_an_unfinished_schedule_ends(tmp_path, tell, left):
    config = CompressionConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 60]},
            "accuracy_aware_training": {"mode": "adaptive_compression_level", "params": {}},
            "compression": {
                "algorithm": "magnitude_sparsity",
                "params": {"schedule": "exponential", "sparsity_target": 0.5, "sparsity_target_epoch": 100},
            },
        }
    )
    curve = {"cliff": cliff(0.3), "flat": flat()}[tell]
    loop, _, _ = run(told(curve), tmp_path, config=config)
    assert [round(rate, 4) for rate in rates(loop)[:3]] == left
    assert loop.result.records[0].epochs == 5, "it is not fully compressed before"


def test_a_schedule_that_is_never_stepped_leaves_the_search_where_it_is(tmp_path):
    ramp = config_of(PARAMS, ramp=[0.1, 0.2, 0.3])
    loop, model, teller = loop_of(ramp, 0.9, told(cliff(0.25)))
    loop.run(model, lambda *_, **__: None, teller.validate, preflight=False, log_dir=tmp_path)
    assert rates(loop)[:2] == [0.1, 0.2]


def test_random_numbers_go_on_as_if_nothing_had_been_drawn(tmp_path):
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    wanted = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    loop, model, teller = loop_of(config_of(PARAMS), 0.9, told(cliff(0.62)))
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    loop.run(model, teller.train_epoch, lambda model: torch.rand(()).item() and 0.9, preflight=False, log_dir=tmp_path)
    random.setstate(state[0])
    assert np.array_equal(np.random.get_state()[1], state[1][1])
    assert torch.equal(torch.get_rng_state(), state[2])
    assert wanted


def test_validation_before_training_saves_epochs(tmp_path):
    plain, _, _ = run(told(cliff(0.62)), tmp_path / "plain")
    eager, _, _ = run(told(cliff(0.62)), tmp_path / "eager", validate_before_training=True)
    assert rates(eager) == rates(plain)
    assert [record.epochs for record in eager.result.records if record.feasible] == [0, 0]
    assert eager.statistics.epochs < plain.statistics.epochs


def test_early_exit_with_learned_masks(tmp_path):
    """An algorithm that no search space names, in a run that everything else can read."""
    config = CompressionConfig.from_dict(
        {
            "input_info": {"sample_size": [1, 60]},
            "accuracy_aware_training": {"mode": "early_exit", "params": {"maximal_total_epochs": 4}},
            "compression": [
                {"algorithm": "rb_sparsity", "params": {"sparsity_target": 0.3, "sparsity_target_epoch": 2}},
                {"algorithm": "quantization"},
            ],
        }
    )
    controller, model = create_compressed_model(Net(), config)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)

    def train_epoch(controller, model, **_):
        controller.scheduler.epoch_step()

    loop.run(model, train_epoch, lambda model: 0.9, preflight=False, log_dir=tmp_path)
    (record,) = loop.result.records
    assert record.algorithm == "rb_sparsity+qat"
    assert record.epochs == 3, "the schedule ends with its third epoch"
    page = loop.result.report().read_text()
    assert "rb_sparsity" in page
    assert "create_accuracy_aware_training_loop(config, compression_ctrl, 0.9," in page
    told = loop.result.directory.settings()["engine"]["config"]
    assert CompressionConfig.from_dict(told) == config, "what the page tells makes the same loop"
    answer = invoke("status", loop.directory)
    assert answer.exit_code == 0, answer.output
    checkpoint = load_compressed(loop.result.checkpoint, Net())
    assert all(torch.equal(each, checkpoint.state_dict()[name]) for name, each in model.state_dict().items())


def test_bad_arguments_are_told_before_training(tmp_path):
    config = config_of(PARAMS)
    controller, model = create_compressed_model(Net(), config)
    with pytest.raises(ConfigError, match="uncompressed_model_accuracy must be a finite number; got 'high'"):
        create_accuracy_aware_training_loop(config, controller, "high")
    with pytest.raises(ConfigError, match=r"maximal_compression_rate \(0.4\); it leads to 0.5"):
        create_accuracy_aware_training_loop(config, controller, 0.9, maximal_compression_rate=0.4)
    sections = {"input_info": {"sample_size": [1, 60]}, "compression": {"algorithm": "magnitude_sparsity"}}
    without = CompressionConfig.from_dict(sections)
    with pytest.raises(ConfigError, match="accuracy_aware_training must be given"):
        create_accuracy_aware_training_loop(without, controller, 0.9)
    loop = create_accuracy_aware_training_loop(config, controller, 0.9)
    with pytest.raises(ConfigError, match="validate_fn must be a function; got None"):
        loop.run(model, lambda *_: None, None, preflight=False, log_dir=tmp_path)
    with pytest.raises(StoreError, match="model of create_compressed_model"):
        loop.run(Net(), lambda *_: None, lambda _: 0.9, preflight=False, log_dir=tmp_path)
    with pytest.raises(StoreError, match="no result before"):
        _ = create_accuracy_aware_training_loop(config, controller, 0.9).result
    with pytest.raises(TrialError, match="must return an optimizer"):
        loop.run(model, lambda *_: None, lambda _: 0.5, lambda: ("SGD", None), preflight=False, log_dir=tmp_path)
    assert issubclass(ModuleError, Exception)


@pytest.mark.parametrize("algorithm", ["magnitude_sparsity", "quantization"])
def test_going_on_from_the_model_as_it_stands_is_starting_from_its_copy(tmp_path, algorithm):
    """A user who saves checkpoints may change the model meanwhile: then a copy is started from."""
    config = config_of({**PARAMS, "patience_epochs": 1})
    if algorithm == "quantization":
        config = config.model_copy(update={"compression": (*config.compression, *quantization())})
    found = []
    for functions in ({}, {"dump_checkpoint_fn": lambda *_: None}):
        loop, model, teller = loop_of(config, 0.9, lambda rate, *_: 0.9 if rate <= 0.82 else 0.5)

        def train_epoch(controller, model, teller=teller, **_):
            teller.train_epoch(controller, model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(torch.rand(4, 60)).square().sum().backward()
            optimizer.step()

        directory = tmp_path / str(len(found))
        loop.run(model, train_epoch, teller.validate, preflight=False, log_dir=directory, **functions)
        found.append((rates(loop), [record.achieved_rate for record in loop.result.records], model.state_dict()))
    assert found[0][:2] == found[1][:2]
    assert len(set(found[0][0])) > 4, "rates within the budget follow each other"
    assert all(torch.equal(value, found[1][2][name]) for name, value in found[0][2].items())


def quantization():
    return CompressionConfig.from_dict(
        {"input_info": {"sample_size": [1, 60]}, "compression": {"algorithm": "quantization"}}
    ).compression


def test_verification_that_disagrees_is_said(tmp_path, caplog):
    """The second evaluation of the same weights is worse: as a validate_fn that leaves the model in training mode."""
    seen = set()

    def tell(rate, at_rate, _):
        first = (rate, at_rate) not in seen
        seen.add((rate, at_rate))
        return 0.9 if first else 0.85

    told_so = (
        "evaluates differently when loaded afresh: 0.85 against 0.9; the evaluator is not deterministic or leaves the "
        "model in training mode"
    )
    loop, model, teller = loop_of(config_of({**PARAMS, "patience_epochs": 1}), 0.9, tell)
    with pytest.raises(InfeasibleBudgetError, match=told_so) as caught:
        loop.run(model, teller.train_epoch, teller.validate, preflight=False, log_dir=tmp_path)
    assert {accuracy for _, accuracy in caught.value.disproved} == {0.85}
    assert caught.value.best_accuracy < 0.891
    assert told_so in caplog.text
    assert told_so in loop.verdict


def test_a_file_with_other_weights_ends_the_run(tmp_path, monkeypatch):
    written = training.save_checkpoint

    def save_another(model, *arguments, **keywords):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.layer.weight.neg_()
        written(other, *arguments, **keywords)

    monkeypatch.setattr(training, "save_checkpoint", save_another)
    loop, model, teller = loop_of(config_of(PARAMS), 0.9, told(flat()))
    with pytest.raises(StoreError, match=r"bit for bit; layer\.weight differs"):
        loop.run(model, teller.train_epoch, teller.validate, preflight=False, log_dir=tmp_path)
    assert loop.result.records == [], "nothing is recorded of a model that was not saved"


def test_the_statistics_are_those_of_the_verified_model(tmp_path):
    """What is told of the accuracy and of its budget belongs together."""
    seen = set()

    def tell(*state):
        first = state not in seen
        seen.add(state)
        return 0.9 if first else 0.895

    loop, _, _ = run(tell, tmp_path)
    assert loop.statistics.compressed_accuracy == 0.895
    assert loop.statistics.accuracy_margin == pytest.approx(0.895 - 0.891)


@pytest.mark.parametrize("preflight", [True, False])
def test_trials_are_compared_with_the_uncompressed_model_sample_by_sample(tmp_path, preflight):
    draw = torch.Generator().manual_seed(0)
    inputs, original = torch.randn(300, SIZE, generator=draw), Net()
    labels = torch.where(torch.rand(300, generator=draw) < 0.1, 0, original(inputs).argmax(1))

    def right(model):
        with torch.no_grad():
            return model(inputs).argmax(1) == labels

    def train(controller, model, epoch, optimizer):
        controller.scheduler.epoch_step()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    controller, model = create_compressed_model(Net(), config := config_of({**PARAMS, **TEN_PERCENT}))
    loop = create_accuracy_aware_training_loop(config, controller, right(original).float().mean().item())
    loop.run(
        model,
        train,
        right,
        lambda: (torch.optim.SGD(model.parameters(), 0.01), None),
        log_dir=tmp_path,
        preflight=preflight,
    )
    best = loop.result.best
    assert best.accuracy == pytest.approx(right(model).double().mean().item())
    expected = paired_error(right(model).double().tolist(), right(original).double().tolist(), 0.9)
    assert best.accuracy_error == pytest.approx(expected)
    assert 0 < expected < mean_error(right(model).double().tolist())
    assert (loop.result.directory.path / "uncompressed.json").exists()
    known = loop.result.baseline
    assert known.accuracy_error == (pytest.approx(mean_error(right(original).double().tolist())) if preflight else None)
    assert ("sample by sample" in loop.verdict) == preflight
