"""Epochs of trials that nobody named."""

import pytest

from autocompress.trial.order import TrialOrder
from tests.curve_modules import Knee, NoTrainer
from tests.trial.preflight_modules import Bare, Right

PARAMETERS = {"algorithm_name": {"_name": "l2", "config_list::::hidden::sparsity": 0.5}}


class Own(Right):
    @classmethod
    def post_compress_finetuning_epochs(cls, compress_algorithm_name):
        return 0


class Silent(NoTrainer):
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
        (Silent, {"default_epochs": 3}, 0),
    ],
)
def test_epochs(module, search, epochs):
    (stage,) = TrialOrder.read(module, {**PARAMETERS, "search": search}).stages
    assert stage.epochs == epochs
