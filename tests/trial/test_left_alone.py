"""Layers that cannot be cut rightly: what a trial, its record and a check say of them."""

import pytest
import torch

from autocompress import load_compressed, run_trial
from autocompress.records import TrialRecord
from autocompress.testing.zoo import ZooModule
from autocompress.trial.check import AlgorithmCheck, check_module
from tests.compression.structures import STRUCTURES

GONE = [2, 3, 4, 7, 9, 10, 12, 15]


class ChannelsLast(ZooModule):
    """Half of its filters are zero."""

    build = staticmethod(STRUCTURES["channels_last"])
    shape, outputs = (3, 4, 4), 5

    @classmethod
    def model(cls):
        model = super().model()
        with torch.no_grad():
            model.conv.weight[GONE] = 0
            model.conv.bias[GONE] = 0
        return model


class Shuffled(ZooModule):
    build = staticmethod(STRUCTURES["channel_shuffle"])
    shape, outputs = (3, 4, 4), 5

    @classmethod
    def evaluator(cls):
        """How near the outputs are to those of the uncompressed model, 1 at best."""
        x = cls.data()[0][0]
        expected = cls.model().eval()(x).detach()
        return lambda model: 1 / (1 + (model.eval()(x).detach() - expected).square().mean().item())


class Parametrized(ZooModule):
    build = staticmethod(STRUCTURES["weight_norm"])
    shape, outputs = (3, 8, 8), 5


def parameters(layers, algorithm="l2"):
    return {
        "algorithm_name": {"_name": algorithm, f"config_list::::{layers}::sparsity": 0.5},
        "search": {"requested_rate": 0.5, "epochs": 0},
    }


def test_filters_that_are_zero_go_and_no_output_changes(tmp_path):
    record = run_trial(ChannelsLast, parameters("conv"), threshold=0.0, directory=tmp_path)
    assert (record.state, record.achieved_rate, record.left_alone) == ("completed", 0.5, {})
    smaller = load_compressed(tmp_path / record.checkpoint, ChannelsLast.model()).eval()
    x = ChannelsLast.data()[0][0]
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), ChannelsLast.model().eval()(x))


def test_the_record_names_what_is_left_alone(tmp_path):
    order = parameters("default")
    order["algorithm_name"] = {"_name": "l2", "config_list::default::::sparsity": 0.5}
    record = run_trial(Shuffled, order, threshold=0.0, directory=tmp_path)
    assert record.state == "completed"
    assert set(record.left_alone) == {"first.0", "depthwise.0"}
    assert "on the way to second.0" in record.left_alone["first.0"]
    assert record.achieved_rate == 0.25, "counted over all that was to be cut"
    assert TrialRecord.from_dict(record.to_dict()) == record


def test_nothing_is_left_to_cut(tmp_path):
    record = run_trial(Shuffled, parameters("first.0:depthwise.0"), threshold=0.0, directory=tmp_path)
    assert record.state == "failed"
    assert "nothing can be removed: depthwise.0: its channels are mixed or reordered on the way to" in record.error


@pytest.mark.parametrize("algorithm", ["l2", "filter_pruning"])
def test_a_share_of_the_model_is_met_by_the_other_layers(tmp_path, algorithm):
    order = {
        "algorithm_name": {
            "_name": algorithm,
            "config_list::default::::sparsity": 0.2,
            "parameter::rate_of": "parameters",
            **({"parameter::prune_first_conv": True} if algorithm == "filter_pruning" else {}),
        },
        "search": {"requested_rate": 0.2, "epochs": 0},
    }
    record = run_trial(Parametrized, order, threshold=0.0, directory=tmp_path)
    assert record.state == "completed", record.error
    assert set(record.left_alone) == {"first"}
    assert record.achieved_rate == pytest.approx(0.2, abs=0.04)


def test_a_check_names_it_too():
    from autocompress.search_space import default_space

    (check,) = check_module(Shuffled, default_space(["l2"]).wire)
    assert check.applies
    assert set(check.left_alone) == {"first.0", "depthwise.0"}
    assert AlgorithmCheck.from_dict(check.to_dict()) == check
