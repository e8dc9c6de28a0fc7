"""The hooks of a module: what they return, and whether the model takes the inputs that they give."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from autocompress.errors import ModuleError
from autocompress.search_space import default_space
from autocompress.trial.preflight.hooks import require_inputs, supported_algorithms
from autocompress.trial.tasks import measure_baseline
from tests.trial.preflight_modules import SPACE, SPACE_OF_LEVEL, Bare, Made, Net, Right, batches, data, module, train


class Pair(nn.Module):
    """Of two inputs."""

    def __init__(self):
        super().__init__()
        self.net = Right.model()

    def forward(self, left, right):
        return self.net(left + right)


def pair_accuracy(model):
    x, y = data()[1]
    with torch.no_grad():
        return float((model.eval()(x / 2, x / 2).argmax(1) == y).float().mean())


@pytest.mark.parametrize("batch", [lambda x, y: ((x / 2, x / 2), y), lambda x, y: (x / 2, x / 2, y)])
def test_calibration_data_of_two_inputs(batch):
    pairs = module(
        base=Bare, model=Made(Pair), evaluator=pair_accuracy, calibration_data=[batch(x, y) for x, y in batches()]
    )
    assert measure_baseline(pairs, SPACE_OF_LEVEL).preflight.damaged is not None
    short = module(base=pairs, calibration_data=[x for x, _ in batches()])
    with pytest.raises(ModuleError, match="must hold the 2 inputs that the model's forward takes"):
        measure_baseline(short, SPACE_OF_LEVEL)


class Drawing(Net):
    """Its forward draws of all random numbers."""

    def forward(self, x):
        random.random()
        np.random.rand()
        torch.rand(())
        return super().forward(x)


def test_the_inputs_are_tried_without_drawing():
    model = Drawing()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    require_inputs(Right, model)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="of a device")
def test_the_inputs_are_tried_without_drawing_on_a_device():
    class OnDevice(Net):
        def forward(self, x):
            torch.rand((), device="cuda")
            return super().forward(x)

    before = torch.cuda.get_rng_state()
    require_inputs(Right, OnDevice())
    assert torch.equal(torch.cuda.get_rng_state(), before)


class KnowsOneAlgorithm(Right):
    @classmethod
    def post_compress_finetuning_trainer(cls, compress_algorithm_name):
        return {"l2": train}[compress_algorithm_name]


def test_a_module_need_not_know_algorithms_that_are_not_searched():
    assert supported_algorithms(KnowsOneAlgorithm, ["l1", "l2", "qat"]) == ["l2"]
    assert measure_baseline(KnowsOneAlgorithm, SPACE).preflight.step_seconds is not None
    with pytest.raises(ModuleError, match=r"post_compress_finetuning_trainer\(\) must return when .*'l1'"):
        measure_baseline(KnowsOneAlgorithm, default_space(["l1", "l2"]))
