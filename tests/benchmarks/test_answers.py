"""What the benchmark of answers makes of its rows."""

import statistics

import pytest
import torch
from torch import nn

from autocompress import AbstractAutoCompressionModule
from autocompress.budget import AccuracyBudget
from autocompress.errors import ConfigError
from tests.benchmarks import answer_tables as tables
from tests.benchmarks.answer_configurations import CONFIGURATIONS, Configuration, known
from tests.benchmarks.answers import Rows, task_of
from tests.benchmarks.peers import PeerSearch

BUDGET = AccuracyBudget(maximal_relative_accuracy_degradation=1.0)


def row(seed=0, removed=0.5, test=0.9, **given):
    answer = {
        "macs_removed": removed,
        "parameters_removed": removed,
        "latency_removed": 0.2,
        "accuracy": 0.9,
        "test_accuracy": test,
    }
    trials = [(0.5, 3, 0.9, 0.5, True), (0.6, 3, 0.8, 0.6, False), (0.55, 2, 0.9, removed, True)]
    cost = {"seconds": 60.0, "epoch_seconds": 5.0, "probe_seconds": 10.0}
    found = tables.row(
        uncompressed=0.9, test=0.9, budget=BUDGET, **{"answer": answer, "trials": trials, **cost, **given}
    )
    return {"net": "residual", "configuration": "default", "rate_of": "macs", "seed": seed, **found}


def test_the_time_of_the_probe_counts_in_epochs():
    found = row()
    assert (found["probe_epochs"], found["epochs"], found["trials"]) == (2.0, 10.0, 3)


def test_where_nothing_was_found_the_uncompressed_net_is_the_answer():
    found = row(answer=None, trials=[(0.5, 5, 0.8, 0.5, False)])
    assert (found["found"], found["macs_removed"], found["accuracy"]) == (0, 0.0, 0.9)
    assert tables.within_on_test(found)


def test_a_mean_has_the_spread_and_the_worst():
    removed = [0.6, 0.8, 0.85]
    mean = tables.mean([row(seed, each, test=0.85 + 0.03 * seed) for seed, each in enumerate(removed)])
    assert mean["MACs removed"] == pytest.approx(0.75)
    assert mean["spread"] == pytest.approx(statistics.stdev(removed))
    assert (mean["worst"], mean["seeds"], mean["found"]) == (0.6, 3, 3)
    assert mean["within on test images"] == "1 of 3"  # the threshold is 0.891; 0.85, 0.88, 0.91


def test_a_table_has_a_row_for_each_group_or_each_search():
    rows = [row(0, 0.6), row(1, 0.8), {**row(0, 0.3), "configuration": "nncf"}]
    assert [line.count("|") for line in tables.markdown(rows).splitlines()] == [19] * 4
    assert "| residual | default | macs | 2 | 2 | 70.0 % | 14.1 % | 60.0 % |" in tables.markdown(rows)
    assert "| residual | nncf | macs | 1 | 1 | 30.0 % |" in tables.markdown(rows)
    each = tables.markdown(rows, each=True).splitlines()
    assert len(each) == 5
    assert each[0].endswith("| seed |")
    assert tables.markdown([]) == "no rows"


def test_what_was_reached_after_so_many_epochs():
    found = row(removed=0.55)
    assert [tables.reached(found, epochs) for epochs in (4, 5, 8, 10)] == [0.0, 0.5, 0.5, 0.55]


def test_rows_are_found_again_in_the_file(tmp_path):
    task = task_of("residual", "default", "macs", 1)
    rows = Rows(tmp_path / "rows.json")
    assert not rows.of(task)
    found = {**row(1), "settings": task["settings"]}
    rows.add(found)
    again = Rows(tmp_path / "rows.json")
    assert again.of(task) == [found]
    changed = {**task["settings"], "patience_epochs": 9}
    others = {"seed": 2, "configuration": "nncf", "rate_of": "filters", "net": "plain", "settings": changed}
    assert not any(again.of({**task, name: value}) for name, value in others.items())
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_a_configuration_is_its_parts():
    found = Configuration.named(
        "nncf + global + cosine + lr .01 + fine_tuning_schedule=linear + patience_epochs=4 + parameter::round_to=8"
    )
    assert found.settings == {"preset": "nncf", "fine_tuning_schedule": "linear", "patience_epochs": 4}
    assert found.arguments == {"parameter::allocation": "global", "parameter::round_to": 8}
    assert found.environment == {"FASHION_MNIST_LR": "0.01"}
    assert not any(Configuration.named(name).peer for name in CONFIGURATIONS)
    assert Configuration.named("ModelOpt FastNAS + distillation").peer
    assert Configuration.named("patience_epochs=4").checked_settings(3).patience_epochs == 4


def test_an_unknown_part_is_named():
    with pytest.raises(ConfigError, match=r"must be one of default, .*; got 'liner'"):
        Configuration.named("nncf + liner")


def test_a_configuration_that_this_version_does_not_know_is_left_out(capsys):
    names = ["patience_epochs=4", "patience=4", "parameter::shape=1", "ModelOpt FastNAS"]
    assert known(names, "macs") == ["patience_epochs=4", "ModelOpt FastNAS"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [["left out", "patience=4"], ["left out", "parameter::shape=1"]]


WIDTH, IMAGES = 100, 128
rates_trained_at = []


def data():
    return {"train": (torch.zeros(IMAGES, 1), torch.zeros(IMAGES))}


class Narrow(AbstractAutoCompressionModule):
    """Two layers, accurate where at most 62 % of the width is gone and an epoch was trained since the last cut."""

    @classmethod
    def model(cls):
        net = nn.Sequential(nn.Linear(1, WIDTH), nn.Linear(WIDTH, 1))
        net.register_buffer("trained", torch.tensor(1))
        return net

    @classmethod
    def evaluator(cls):
        return lambda net: 0.9 if net[0].out_features >= 0.38 * WIDTH and net.trained else 0.5

    @classmethod
    def optimizer_factory(cls):
        return lambda parameters: torch.optim.SGD(parameters, lr=0.03)

    @classmethod
    def criterion(cls):
        return nn.MSELoss()

    @classmethod
    def example_inputs(cls):
        return torch.zeros(1, 1)

    @classmethod
    def calibration_data(cls):
        return [torch.zeros(2, 1)]

    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        def train(model, optimizer, criterion, epoch):
            for _ in range(2):
                rates_trained_at.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
            model.trained.fill_(1)

        return train


class Narrower:
    warm, starts = True, ()

    def __call__(self, module, model, most):
        self.starts = (*self.starts, model[0].out_features)
        width = int(most / 2 + 1e-9)
        model[0], model[1] = nn.Linear(1, width), nn.Linear(width, 1)
        model.trained.fill_(0)
        return model


def test_a_peer_is_searched_by_the_rule_and_trained_to_zero():
    rates_trained_at.clear()
    prune = Narrower()
    trials = PeerSearch(Narrow, prune, seed=0).run()
    assert [each.rate for each in trials] == [0.5, 0.6, 0.7, 0.65, 0.625]
    assert [each.feasible for each in trials] == [True, True, False, False, False]
    assert [each.epochs for each in trials] == [1, 1, 3, 3, 3]
    assert [each.macs_removed for each in trials] == pytest.approx([0.5, 0.6, 0.7, 0.65, 0.63])
    assert prune.starts == (100, 50, 40, 40, 40), "from the best so far"
    third = rates_trained_at[4:10]
    assert third == pytest.approx([0.03 * (1 - step / 6) for step in range(6)])
    assert rates_trained_at[10] == pytest.approx(0.015), "lower after a turn"
