import copy
import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal

import pytest
import torch

from autocompress.compression.module import fresh_model
from autocompress.compression.module_loading import ModuleReference
from autocompress.formats.checkpoint import load_compressed
from autocompress.records import Preflight
from autocompress.search.noise import AccuracyNoise
from autocompress.store import ExperimentDirectory
from autocompress.testing import CurveModule, cliff, flat
from autocompress.trial import pipeline
from autocompress.trial.child import verify_in_child
from autocompress.trial.run import retrain, run_trial
from tests import curve_modules as modules
from tests.written import plan


def parameters(rate=0.5, algorithm="l2", **search):
    key = "config_list::::hidden::sparsity"
    return {
        "algorithm_name": {"_name": algorithm, key: rate},
        "search": {"requested_rate": rate, "epochs": 3, **search},
    }


class Listener:
    def __init__(self):
        self.epochs, self.final = [], None

    def report_epoch(self, result):
        self.epochs.append(result)

    def report_final(self, result):
        self.final = result


class Interrupted(CurveModule):
    """Sends itself SIGINT in its second epoch, as NNI does when it cancels a trial."""

    curve = staticmethod(cliff(0.3))

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        if epoch == 1:
            os.kill(os.getpid(), signal.SIGINT)


class Peak(CurveModule):
    """Best after the first epoch, never feasible."""

    curve = staticmethod(lambda rate, epochs: 0.9 if rate == 0 else 0.8 - 0.1 * abs(epochs - 1))


class Watched(CurveModule):
    """Shows its trainer's optimizer."""

    curve = staticmethod(lambda rate, epochs: 0.9 if rate == 0 else 0.5)
    rates: list

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        cls.rates.append(optimizer.param_groups[0]["lr"])
        assert model.training
        assert all(p is q for p, q in zip(optimizer.param_groups[0]["params"], model.parameters(), strict=True))

    @classmethod
    def lr_scheduler_factory(cls):
        return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)


class Stochastic(CurveModule):
    """Its weights move at random."""

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()


def test_a_feasible_trial(tmp_path):
    listener = Listener()
    record = run_trial(modules.Cliff, parameters(), threshold=0.8, directory=tmp_path, reporter=listener)
    assert (record.state, record.feasible, record.accuracy, record.epochs) == ("completed", True, 0.9, 1), record
    assert record.accuracy_margin == pytest.approx(0.1)
    assert record.achieved_rate == record.requested_rate == record.score == 0.5
    assert record.parameters_removed == pytest.approx((400 * 7 - 200 * 7) / (400 * 7 + 2), abs=1e-3)
    assert record.macs_removed == pytest.approx(0.5)
    assert record.bytes == (tmp_path / record.checkpoint / "weights.pt").stat().st_size
    assert [entry["epoch"] for entry in listener.epochs] == [1]
    assert listener.epochs[0] == {"default": 0.5, "accuracy": 0.9, "accuracy_margin": pytest.approx(0.1), "epoch": 1}
    assert listener.final["default"] == record.score
    assert listener.final["feasible"] == 1
    assert json.loads((tmp_path / "trials" / record.key / "record.json").read_text())["key"] == record.key


def test_the_checkpoint_holds_what_was_evaluated(tmp_path):
    record = run_trial(modules.Cliff, parameters(), threshold=0.8, directory=tmp_path)
    model = load_compressed(tmp_path / record.checkpoint)
    assert modules.Cliff.evaluator()(model) == record.accuracy
    assert model.hidden.out_features == 200
    assert int(model.epochs) == record.epochs


def test_an_infeasible_trial_uses_its_patience_and_keeps_its_best_epoch(tmp_path):
    record = run_trial(Peak, parameters(), threshold=0.85, directory=tmp_path)
    assert (record.feasible, record.accuracy, record.epochs) == (False, 0.8, 3), record
    assert record.score == pytest.approx(-0.05 / 0.85)
    assert int(load_compressed(tmp_path / record.checkpoint).epochs) == 1


def test_lower_is_better(tmp_path):
    inside = run_trial(modules.LowerIsBetter, parameters(0.6), threshold=-2.97, directory=tmp_path)
    outside = run_trial(modules.LowerIsBetter, parameters(0.7), threshold=-2.97, directory=tmp_path)
    assert (inside.feasible, outside.feasible) == (True, False)
    assert inside.accuracy_margin == pytest.approx(0.03)
    assert outside.accuracy_margin == pytest.approx(-1.97)


def test_the_initial_phase_does_not_train_what_is_feasible(tmp_path):
    record = run_trial(modules.Cliff, parameters(initial=True), threshold=0.8, directory=tmp_path)
    assert (record.feasible, record.epochs) == (True, 0), record


def test_without_a_trainer_the_model_is_evaluated_once(tmp_path):
    listener = Listener()
    record = run_trial(modules.NoTrainer, parameters(), threshold=0.8, directory=tmp_path, reporter=listener)
    assert (record.feasible, record.epochs, len(listener.epochs)) == (True, 0, 1), record


def test_epochs_are_the_modules_own_without_a_search(tmp_path):
    stock = {"algorithm_name": {"_name": "l1", "config_list::::hidden::sparsity": 0.7}}
    record = run_trial(modules.Cliff, stock, threshold=0.8, directory=tmp_path)
    assert (record.requested_rate, record.epochs, record.feasible) == (0.7, 2, False), record


def test_validation_every_n_epochs_and_after_the_last(tmp_path):
    listener = Listener()
    order = parameters(0.7, epochs=5, validate_every_n_epochs=2)
    run_trial(modules.Cliff, order, threshold=0.8, directory=tmp_path, reporter=listener)
    assert [entry["epoch"] for entry in listener.epochs] == [2, 4, 5]


def test_the_optimizer_is_built_after_compression_with_reduced_rates(tmp_path):
    Watched.rates = []
    record = run_trial(Watched, parameters(lr_factor=0.25), threshold=0.8, directory=tmp_path)
    assert record.error is None
    assert Watched.rates == pytest.approx([0.025, 0.0025, 0.00025])


def test_warm_start_goes_on_from_the_named_checkpoint(tmp_path):
    first = run_trial(modules.Cliff, parameters(0.5), threshold=0.8, directory=tmp_path)
    second = run_trial(modules.Cliff, parameters(0.6, start_from=first.key), threshold=0.8, directory=tmp_path)
    assert second.error is None
    assert second.achieved_rate == 0.6
    assert int(load_compressed(tmp_path / second.checkpoint).epochs) == 2


def test_a_missing_start_fails_the_trial_with_the_reason(tmp_path):
    record = run_trial(modules.Cliff, parameters(start_from="nowhere"), threshold=0.8, directory=tmp_path)
    assert record.state == "failed"
    assert "nowhere" in record.error


def test_equal_keys_are_trained_once(tmp_path):
    first = run_trial(modules.Cliff, parameters(), threshold=0.8, directory=tmp_path)
    curve = tmp_path / "trials" / first.key / "curve.jsonl"
    before = curve.read_text()
    listener = Listener()
    again = run_trial(modules.Cliff, parameters(), threshold=0.8, directory=tmp_path, reporter=listener)
    assert again == first
    assert curve.read_text() == before
    assert listener.epochs == []
    assert listener.final["default"] == first.score


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"epochs": 2}, {"lr_factor": 0.5}, {"initial": True}, {"objective": "size"}],
    ids=lambda changed: next(iter(changed)),
)
def test_whatever_determines_the_result_changes_the_key(tmp_path, changed):
    one = run_trial(modules.Flat, parameters(), threshold=0.8, directory=tmp_path)
    other = run_trial(modules.Flat, parameters(**changed), threshold=0.8, directory=tmp_path)
    assert one.key != other.key


def test_equal_seeds_give_equal_weights(tmp_path):
    records = [run_trial(Stochastic, parameters(), threshold=2.0, directory=tmp_path / name) for name in "ab"]
    one, other = (
        load_compressed(tmp_path / name / record.checkpoint).state_dict()
        for name, record in zip("ab", records, strict=True)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    different = run_trial(Stochastic, parameters(seed=1), threshold=2.0, directory=tmp_path / "c")
    weights = load_compressed(tmp_path / "c" / different.checkpoint).state_dict()
    assert not torch.equal(weights["hidden.weight"], one["hidden.weight"])


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (
            modules.NanAbove,
            "tensor, array or list of one for each sample; got nan",
        ),
        (
            modules.TextAbove,
            "tensor, array or list of one for each sample; got 'good'",
        ),
        (modules.RaisesAlways, "RuntimeError: the trainer is broken"),
        (modules.NoOptimizer, "optimizer_factory() must return a function"),
    ],
)
def test_a_failed_trial_tells_why(tmp_path, module, reason):
    listener = Listener()
    record = run_trial(module, parameters(0.8), threshold=0.85, directory=tmp_path, reporter=listener)
    assert (record.state, record.feasible, record.checkpoint) == ("failed", False, None)
    assert reason in record.error, record.error
    assert "Traceback" in (tmp_path / "trials" / record.key / "traceback.txt").read_text()
    assert listener.final["default"] == -1.0


def test_a_failed_trial_is_run_again_when_asked_again(tmp_path):
    class_ = modules.RaisesAlways
    first = run_trial(class_, parameters(0.8), threshold=0.85, directory=tmp_path)
    second = run_trial(class_, parameters(0.8), threshold=0.85, directory=tmp_path)
    assert first.key == second.key
    assert second.state == "failed"


@pytest.fixture
def interruptible():
    """Shells let their background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_trial_saves_and_reports_its_last_state(tmp_path):
    listener = Listener()
    record = run_trial(Interrupted, parameters(0.5), threshold=0.8, directory=tmp_path, reporter=listener)
    assert (record.state, record.accuracy, record.epochs) == ("stopped", 0.5, 1), record
    assert listener.final["accuracy"] == 0.5
    assert load_compressed(tmp_path / record.checkpoint).hidden.out_features == 200


def test_level_is_held_through_fine_tuning(tmp_path):
    record = run_trial(Stochastic, parameters(0.75, algorithm="level"), threshold=2.0, directory=tmp_path)
    weight = load_compressed(tmp_path / record.checkpoint).hidden.weight
    assert record.achieved_rate == 0.75
    assert int((weight == 0).sum()) == 0.75 * weight.numel()
    assert not torch.equal(weight, fresh_model(Stochastic).hidden.weight)


def test_several_sparsities_are_measured_over_the_whole_model(tmp_path):
    order = {
        "algorithm_name": {
            "_name": "level",
            "config_list::::hidden::sparsity": 0.5,
            "config_list::::head::sparsity": 0.25,
        },
        "search": {"requested_rate": 0.6, "epochs": 0},
    }
    record = run_trial(modules.Flat, order, threshold=0.8, directory=tmp_path)
    assert record.requested_rate == 0.6
    assert record.achieved_rate == pytest.approx((0.5 * 1600 + 0.25 * 800) / 2400)


def test_unknown_search_keys_are_named(tmp_path):
    record = run_trial(modules.Flat, parameters(patience=3), threshold=0.8, directory=tmp_path)
    assert "unknown keys under 'search': patience" in record.error


def _run(directory, answers):
    answers.put(run_trial(modules.Slow, parameters(0.5), threshold=0.8, directory=directory).seconds)


@pytest.mark.slow
def test_two_processes_with_one_key_train_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [context.Process(target=_run, args=(tmp_path, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    seconds = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert seconds[0] == seconds[1], "the second one must be answered with the first one's record"
    curves = list(tmp_path.glob("trials/*/curve.jsonl"))
    assert len(curves) == 1
    assert len(curves[0].read_text().splitlines()) == 2


def test_a_flat_curve_has_no_nan(tmp_path):
    assert not math.isnan(flat()(0.5, 1))
    record = run_trial(modules.Flat, parameters(0.9), threshold=0.0, directory=tmp_path)
    assert record.feasible


def damage(checkpoint):
    """A bit of the weights file flips."""
    content = bytearray((checkpoint / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (checkpoint / "weights.pt").write_bytes(bytes(content))


def plain(record):
    return {**record.to_dict(), "seconds": 0}


@pytest.mark.parametrize("harm", ["flipped", "weights gone", "all gone"])
def test_a_damaged_checkpoint_is_trained_again(tmp_path, caplog, harm):
    def two(directory, between):
        first = run_trial(modules.Cliff, parameters(0.5), threshold=0.8, directory=directory)
        between(directory / first.checkpoint)
        second = run_trial(modules.Cliff, parameters(0.6, start_from=first.key), threshold=0.8, directory=directory)
        weights = (directory / first.checkpoint / "weights.pt").read_bytes()
        return plain(first), plain(second), weights, (directory / second.checkpoint / "weights.pt").read_bytes()

    harms = {
        "flipped": damage,
        "weights gone": lambda checkpoint: (checkpoint / "weights.pt").unlink(),
        "all gone": shutil.rmtree,
    }
    undisturbed = two(tmp_path / "undisturbed", lambda _: None)
    assert two(tmp_path / "disturbed", harms[harm]) == undisturbed
    assert "its trial is trained again" in caplog.text


class Rising(CurveModule):
    """Better by one with each epoch, and evaluated with a noise of one."""

    curve = staticmethod(lambda rate, epochs: 0.9 if rate == 0 else float(epochs))


def test_a_trial_with_a_second_chance_is_trained_again_alike(tmp_path):
    noisy = Preflight(accuracies=(0.0, 2.0), noise=2.0, damaged=None, evaluation_seconds=0.1)
    experiment = plan(baseline=dataclasses.replace(plan().measured, preflight=noisy))
    directory = ExperimentDirectory(tmp_path)
    directory.create()
    directory.write_settings(experiment.to_dict())
    noise = AccuracyNoise.of(experiment.measured, experiment.settings.budget)
    chosen = parameters(0.5, epochs=1, second_chance_epochs=1)
    record = run_trial(Rising, chosen, threshold=1.5, directory=tmp_path, noise=noise)
    assert (record.epochs, record.second_chance_epochs, record.feasible) == (2, 1, True)
    weights = (tmp_path / record.checkpoint / "weights.pt").read_bytes()
    retrain(Rising, record.key, threshold=1.5, directory=tmp_path)
    assert (tmp_path / record.checkpoint / "weights.pt").read_bytes() == weights


@pytest.mark.slow
def test_a_damaged_best_model_is_trained_again_before_it_is_verified(tmp_path):
    record = run_trial(modules.Cliff, parameters(0.5), threshold=0.8, directory=tmp_path)
    damage(tmp_path / record.checkpoint)
    reference = ModuleReference.of(modules.Cliff).to_dict()
    verdict = verify_in_child(reference, tmp_path / record.checkpoint, 0.8, tmp_path)
    assert (verdict.accuracy, verdict.feasible) == (record.accuracy, True)
    assert load_compressed(tmp_path / record.checkpoint, fresh_model(modules.Cliff)) is not None


@pytest.mark.parametrize("algorithm", ["l2", "level"])
def test_a_file_with_other_weights_fails_the_trial(tmp_path, monkeypatch, algorithm):
    """What the record says is measured on the file: one that lies must not become a record."""
    written = pipeline.save_checkpoint

    def save_another(model, *arguments, **keywords):
        other = copy.deepcopy(model)
        with torch.no_grad():
            other.head.weight.neg_()
        written(other, *arguments, **keywords)

    monkeypatch.setattr(pipeline, "save_checkpoint", save_another)
    record = run_trial(modules.Cliff, parameters(algorithm=algorithm), threshold=0.8, directory=tmp_path)
    assert (record.state, record.feasible, record.accuracy) == ("failed", False, None)
    assert "must hold the model that was saved, bit for bit; head.weight differs" in record.error


class Tempered(CurveModule):
    """Its training changes what no state dict holds."""

    @classmethod
    def model(cls):
        model = super().model()
        model.temperature = 1.0
        model.register_forward_hook(lambda model, _, output: output * model.temperature)
        return model

    @classmethod
    def train_epoch(cls, model, optimizer, criterion, epoch):
        super().train_epoch(model, optimizer, criterion, epoch)
        model.temperature = 0.5


def test_what_a_checkpoint_cannot_hold_fails_the_trial(tmp_path):
    record = run_trial(Tempered, parameters(), threshold=0.8, directory=tmp_path)
    assert record.state == "failed"
    assert "must be parameters or buffers of its state dict" in record.error


def test_a_trial_that_runs_and_one_that_has_ended_report_the_same_metric(tmp_path):
    reporter = Listener()
    record = run_trial(modules.Flat, parameters(0.9), threshold=2.0, directory=tmp_path, reporter=reporter)
    assert not record.feasible
    assert [each["default"] for each in reporter.epochs][-1] == pytest.approx(record.score)
