"""Trials of quantizers and of mixes, with real compression, training, checkpoints and records."""

from __future__ import annotations

import copy
import json
from typing import ClassVar

import pytest
import torch
from torch import nn

from autocompress.compression.base import layer_shapes
from autocompress.compression.quantization.int8 import Int8Model
from autocompress.formats.checkpoint import load_compressed
from autocompress.report.verdict import verdict
from autocompress.store import ExperimentDirectory
from autocompress.testing.zoo import GroupedCnn, PlainCnn, Regression, Transformer, VggBn
from autocompress.trial import pipeline
from autocompress.trial.run import final_result, run_trial

PRUNED = {"config_list::default::::sparsity": 0.5}
BITS = {"config_list::weight:output::default::::quant_bits": 8}
WEIGHTS = {"config_list::weight::default::::quant_bits": 4}


class Told:
    def __init__(self):
        self.epochs, self.accuracies = [], []

    def report_epoch(self, result):
        self.epochs.append(result["epoch"])
        self.accuracies.append(result["accuracy"])

    def report_final(self, result):
        self.final = result


class NamesTrainers(GroupedCnn):
    """Notes which algorithm its trainers are asked for."""

    asked: list = []  # noqa: RUF012

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        cls.asked.append(compress_algorithm_name)
        return super().sparsifying_trainer(compress_algorithm_name)


def parameters(algorithm, *rules, **search):
    chosen = {"_name": algorithm}
    for rule in rules:
        chosen |= rule
    return {"algorithm_name": chosen, "search": {"epochs": 2, **search}}


def trial(module, directory, threshold, *order, **search):
    told = Told()
    record = run_trial(module, parameters(*order, **search), threshold=threshold, directory=directory, reporter=told)
    assert record.error is None, record.error
    return record, told


def checkpoint(directory, record):
    return directory / record.checkpoint


@pytest.mark.slow
def test_a_mix_prunes_tunes_and_quantizes(tmp_path):
    record, told = trial(NamesTrainers, tmp_path, 2.0, "l2+qat", PRUNED, BITS)  # out of reach: all epochs are trained
    assert (record.algorithm, record.requested_rate, record.epochs) == ("l2+qat", 0.5, 4)
    assert told.epochs == [1, 2, 2, 3, 4]  # the quantized model is evaluated before it is trained
    assert "l2" in NamesTrainers.asked
    assert "qat" in NamesTrainers.asked
    assert not record.simulated
    assert record.achieved_rate == pytest.approx(0.5, abs=0.02)
    model = load_compressed(checkpoint(tmp_path, record))
    assert isinstance(model, Int8Model)
    original = sum(parameter.numel() for parameter in NamesTrainers.model().parameters())
    assert sum(weight.numel() for weight in model.weights()) < original / 2
    assert GroupedCnn.evaluator()(model) == record.accuracy


def test_it_is_left_at_the_first_feasible_evaluation(tmp_path):
    record, told = trial(GroupedCnn, tmp_path, 0.0, "l2+qat", PRUNED, BITS, initial=True)
    assert (record.feasible, record.epochs, told.epochs) == (True, 0, [0, 0])


@pytest.mark.slow
def test_heads_go_in_trials_that_start_from_each_other(tmp_path):
    heads = "config_list::::" + ":".join(f"encoder.layers.0.self_attn.{name}_proj" for name in "qkv") + "::sparsity"
    first, _ = trial(Transformer, tmp_path, -1.0, "l2+qat", {heads: 0.25}, BITS, initial=True)
    assert first.achieved_rate == 0.25
    pruned = load_compressed(ExperimentDirectory(tmp_path).trial(first.key).pruned, Transformer.model())
    assert [layer.self_attn.num_heads for layer in pruned.encoder.layers] == [3, 4]
    assert type(pruned.encoder.layers[1].self_attn) is nn.MultiheadAttention
    assert isinstance(load_compressed(checkpoint(tmp_path, first)), Int8Model)
    more, _ = trial(Transformer, tmp_path, -1.0, "l2+qat", {heads: 0.5}, BITS, initial=True, start_from=first.key)
    assert more.achieved_rate == 0.5
    assert more.parameters_removed > first.parameters_removed


@pytest.mark.parametrize("quantizer", ["naive", "dorefa", "qat"])
def test_zeros_survive_quantization_and_training(tmp_path, quantizer):
    bits = BITS if quantizer == "qat" else WEIGHTS
    record, _ = trial(Regression, tmp_path, -1.0, f"level+{quantizer}", PRUNED, bits)
    model = load_compressed(checkpoint(tmp_path, record))
    weights = [tensor for tensor in model.state_dict().values() if tensor.dim() == 2]
    assert len(weights) == 3
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    assert zeros >= 0.5 - 1e-6, zeros
    assert record.achieved_rate == pytest.approx(0.5, abs=0.01)
    assert record.simulated == (quantizer != "qat")


def test_the_next_rate_starts_from_before_quantization(tmp_path):
    low, _ = trial(Regression, tmp_path, -1.0, "l1+qat", PRUNED, BITS)
    more = {"config_list::default::::sparsity": 0.75}
    high, _ = trial(Regression, tmp_path, -1.0, "l1+qat", more, BITS, start_from=low.key)
    assert high.parameters_removed > low.parameters_removed
    pruned = load_compressed(ExperimentDirectory(tmp_path).trial(low.key).pruned)
    assert [layer.out_features for layer in pruned if isinstance(layer, nn.Linear)] == [24, 16, 3]
    assert high.start_from == low.key


@pytest.mark.parametrize(
    ("algorithm", "bits", "saved"), [("naive", 8, 0.65), ("dorefa", 2, 0.8), ("bnn", 1, 0.8), ("qat", 4, 0.8)]
)
def test_what_is_simulated_says_so_and_counts_its_bits(tmp_path, algorithm, bits, saved):
    rule = {"config_list::weight::default::::quant_bits": bits}
    record, _ = trial(VggBn, tmp_path, 2.0, algorithm, rule, epochs=1)
    assert record.simulated
    assert record.achieved_rate == pytest.approx(1 - bits / 32, abs=1e-6)
    assert saved < record.size_removed < 1 - bits / 32
    assert final_result(record)["simulated"] == 1


def test_latency_is_measured_where_it_is_the_objective(tmp_path):
    record, told = trial(Regression, tmp_path, 1e9, "l1", PRUNED, objective="latency")
    assert record.latency > 0
    assert record.latency_removed < 1
    assert record.score == max(record.latency_removed, 0.0)
    assert told.final["latency_removed"] == record.latency_removed
    other, _ = trial(Regression, tmp_path, 1e9, "l1", PRUNED)
    assert (other.latency, other.latency_removed) == (None, None)


class Teaches(Regression):
    """Its own loss is nothing, so that only a teacher can move the student."""

    @classmethod
    def criterion(cls):
        return lambda outputs, targets: outputs.sum() * 0


def test_the_uncompressed_model_teaches(tmp_path):
    taught = {"knowledge_distillation": {"type": "mse", "scale": 300.0}}
    record, _ = trial(Teaches, tmp_path, -1.0, "l1", PRUNED, epochs=30, **taught)
    alone, _ = trial(Teaches, tmp_path, -1.0, "l1", PRUNED, epochs=30)
    x, teacher = Regression.data()[0][0], Regression.model()
    distance = {}
    for name, each in (("taught", record), ("alone", alone)):
        model = load_compressed(checkpoint(tmp_path, each)).eval()
        with torch.no_grad():
            distance[name] = float((model(x) - teacher(x)).square().mean())
    assert distance["taught"] < distance["alone"] / 2, distance
    assert record.key != alone.key


def test_the_record_is_json(tmp_path):
    record, _ = trial(Regression, tmp_path, -1.0, "l1+naive", PRUNED, WEIGHTS)
    written = json.loads((ExperimentDirectory(tmp_path).trial(record.key).path / "record.json").read_text())
    assert written["simulated"] is True
    assert written["algorithm"] == "l1+naive"


@pytest.mark.parametrize("algorithm", ["qat", "l2+qat"])
def test_an_int8_trial_holds_what_its_file_evaluates_to(tmp_path, algorithm):
    rules = (PRUNED, BITS) if "+" in algorithm else (BITS,)
    record, told = trial(Regression, tmp_path, -1.0, algorithm, *rules)
    model = load_compressed(checkpoint(tmp_path, record))
    assert isinstance(model, Int8Model)
    assert Regression.evaluator()(model) == record.accuracy, "the int8 model's, not its simulation's"
    assert record.accuracy_margin == -1.0 - record.accuracy
    curve = ExperimentDirectory(tmp_path).trial(record.key).curve()
    last_stage = [point["accuracy"] for point in curve if point["epoch"] > record.epochs - 2]
    assert record.simulated_accuracy == min(last_stage), "the curve is the simulation's"
    assert told.final["simulated_accuracy"] == record.simulated_accuracy


class WorseInInt8(Regression):
    """Real int8 weights cost it more than simulated ones."""

    @classmethod
    def evaluator(cls):
        found = super().evaluator()
        return lambda model: found(model) + (1.0 if isinstance(model, Int8Model) else 0.0)


def test_an_int8_model_outside_the_budget_is_outside_whatever_its_simulation_was(tmp_path):
    record, _ = trial(WorseInInt8, tmp_path, 9.0, "qat", BITS, epochs=0)
    assert record.simulated_accuracy < 9.0 < record.accuracy, record
    assert (record.state, record.feasible) == ("completed", False)
    assert record.accuracy_margin == pytest.approx(9.0 - record.accuracy)
    assert record.score < 0
    assert verdict(record) == f"outside as int8; {record.simulated_accuracy:.4g} in simulation"


@pytest.mark.parametrize(("algorithm", "bits"), [("naive", 4), ("dorefa", 3), ("bnn", 1), ("qat", 4)])
def test_what_is_simulated_is_evaluated_as_it_is_saved(tmp_path, algorithm, bits):
    rule = {"config_list::weight::default::::quant_bits": bits}
    record, _ = trial(VggBn, tmp_path, 2.0, algorithm, rule, epochs=1)
    assert VggBn.evaluator()(load_compressed(checkpoint(tmp_path, record)).eval()) == record.accuracy
    assert record.simulated_accuracy is None


def test_filters_that_come_back_fail_the_trial(tmp_path, monkeypatch):
    """The second file is that of another model, which its own check does not know."""
    reread = pipeline.load_verified

    def reread_another(path, model, original, inputs):
        return reread(path, model, original, inputs) if path.name == "pruned" else copy.deepcopy(original)

    monkeypatch.setattr(pipeline, "load_verified", reread_another)
    rules = {"config_list::weight::default::::quant_bits": 4}
    record = run_trial(Regression, parameters("l2+naive", PRUNED, rules), threshold=-1.0, directory=tmp_path)
    assert record.state == "failed"
    assert "must have the compression rate of the model that was saved" in record.error


class Steps(PlainCnn):
    """Notes the width of the first layer in each epoch, and the learning rate."""

    seen: ClassVar = []

    @classmethod
    def sparsifying_trainer(cls, compress_algorithm_name):
        train = super().sparsifying_trainer(compress_algorithm_name)

        def noted(model, optimizer, criterion, epoch):
            layer = next(each for each in model.modules() if isinstance(each, nn.Conv2d))
            cls.seen.append((layer.out_channels, epoch))
            train(model, optimizer, criterion, epoch)

        return noted


@pytest.mark.parametrize(
    ("steps", "epochs", "widths"), [(1, 4, [4, 4, 4, 4]), (2, 4, [6, 6, 4, 4]), (2, 3, [6, 4, 4]), (4, 4, [7, 6, 5, 4])]
)
def test_filters_go_in_steps_with_training_between(tmp_path, steps, epochs, widths):
    Steps.seen.clear()
    total = layer_shapes(Steps.model())["0"].width
    record, told = trial(Steps, tmp_path, 2.0, "l2", PRUNED, epochs=epochs, pruning_steps=steps)
    assert [round(8 * width / total) for width, _ in Steps.seen] == widths
    assert (record.epochs, record.achieved_rate) == (epochs, pytest.approx(0.5, abs=0.05))
    assert told.epochs[-1] == epochs


def test_epochs_that_a_step_does_not_take_are_left_for_the_last(tmp_path):
    Steps.seen.clear()
    total = layer_shapes(Steps.model())["0"].width
    record, _ = trial(Steps, tmp_path, 0.0, "l2", PRUNED, epochs=4, pruning_steps=2, purpose="final")
    assert [round(8 * width / total) for width, _ in Steps.seen] == [4] * 4, "the last training removes nothing more"
    assert record.epochs == 4


def test_steps_go_on_from_where_a_trial_started(tmp_path):
    total = layer_shapes(Steps.model())["0"].width
    first, _ = trial(Steps, tmp_path, 2.0, "l2", PRUNED, epochs=1)
    Steps.seen.clear()
    more = dict.fromkeys(PRUNED, 0.75)
    trial(Steps, tmp_path, 2.0, "l2", more, epochs=2, pruning_steps=2, start_from=first.key)
    assert [round(8 * width / total) for width, _ in Steps.seen] == [3, 2]


class Uncalibrated(PlainCnn):
    """Only its trainer has inputs; the accuracy is minus the distance from the uncompressed model's outputs."""

    @classmethod
    def calibration_data(cls):
        return None

    @classmethod
    def evaluator(cls):
        x, original = cls.data()[0][0], cls.model().eval()
        with torch.no_grad():
            wanted = original(x)

        @torch.no_grad()
        def likeness(model):
            return -float((model.eval()(x) - wanted).square().mean())

        return likeness


def test_statistics_are_estimated_on_what_the_trainer_passes(tmp_path):
    """Without calibration data, a model that lost filters is evaluated with statistics of its own."""
    first = {}
    for eager in (False, True):
        options = {"epochs": 1, "initial": True, "validate_before_training": eager}
        first[eager] = trial(Uncalibrated, tmp_path, 2.0, "l2", PRUNED, **options)[1].accuracies[0]
    assert first[True] != first[False]


def test_the_schedule_is_recorded(tmp_path):
    record, _ = trial(PlainCnn, tmp_path, 2.0, "l2", PRUNED, fine_tuning_schedule="cosine")
    assert (record.fine_tuning_schedule, record.steps_per_epoch) == ("cosine", len(PlainCnn.data()))
    record, _ = trial(PlainCnn, tmp_path, 0.0, "l2", PRUNED, initial=True)
    assert (record.fine_tuning_schedule, record.epochs) == (None, 0)


def test_the_last_training_does_not_leave_early(tmp_path):
    record, told = trial(PlainCnn, tmp_path, 0.0, "l2", PRUNED, epochs=3, purpose="final")
    assert record.epochs == 3
    assert record.accuracy == max(told.accuracies)
