"""Epochs of trials that nobody named."""

import pytest

from autocompress.trial.spec import TrialSpec, trial_key
from tests.curve_modules import Knee, NoTrainer
from tests.trial.preflight_modules import Bare, Right

PARAMETERS = {
    "algorithm_name": {"_name": "l1", "rate": 0.35},
    "search": {"lr_factor": 1.0, "seed": 7, "start_from": None},
}


def test_it_is_short_and_stable():
    assert trial_key("f", PARAMETERS, 0.9) == trial_key("f", PARAMETERS, 0.9)
    assert len(trial_key("f", PARAMETERS, 0.9)) == 16


def test_order_and_the_kind_of_whole_numbers_do_not_matter():
    """JavaScript between us turns 1.0 into 1."""
    turned = {
        "search": {"start_from": None, "seed": 7.0, "lr_factor": 1},
        "algorithm_name": {"rate": 0.35, "_name": "l1"},
    }
    assert trial_key("f", turned, 0.9) == trial_key("f", PARAMETERS, 0.9)


@pytest.mark.parametrize(
    ("fingerprint", "parameters", "threshold"),
    [
        ("g", PARAMETERS, 0.9),
        ("f", PARAMETERS, 0.91),
        ("f", {**PARAMETERS, "search": {"seed": 8}}, 0.9),
        ("f", {**PARAMETERS, "search": {**PARAMETERS["search"], "start_from": "a"}}, 0.9),
        ("f", {**PARAMETERS, "search": {**PARAMETERS["search"], "seed": True}}, 0.9),
    ],
)
def test_everything_else_matters(fingerprint, parameters, threshold):
    assert trial_key(fingerprint, parameters, threshold) != trial_key("f", PARAMETERS, 0.9)


PARAMETERS_ORDER = {"algorithm_name": {"_name": "l2", "config_list::::hidden::sparsity": 0.5}}


class Own(Right):
    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name):
        return 0


class SilentTrainer(NoTrainer):
    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name):
        return None


@pytest.mark.parametrize(
    ("module", "search", "epochs"),
    [
        (Right, {"default_epochs": 3}, 3),
        (Right, {"default_epochs": 3, "epochs": 7}, 7),
        (Right, {}, 0),
        (Own, {"default_epochs": 3}, 0),
        (Knee, {"default_epochs": 3}, 2),
        (Bare, {"default_epochs": 3}, 0),
        (SilentTrainer, {"default_epochs": 3}, 0),
    ],
)
def test_epochs(module, search, epochs):
    (stage,) = TrialSpec.read(module, {**PARAMETERS_ORDER, "search": search}).stages
    assert stage.epochs == epochs
