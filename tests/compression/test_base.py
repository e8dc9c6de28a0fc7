from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from autocompress.compression.base import compressor, recalibrate
from autocompress.errors import ConfigError
from autocompress.registry import algorithms

from .nets import build


@pytest.mark.parametrize("name", algorithms())
def test_every_algorithm_has_a_compressor(name: str) -> None:
    assert type(compressor(name)) is type(algorithms()[name].compressor())


def test_an_unknown_name() -> None:
    with pytest.raises(ConfigError, match="unknown algorithm 'l0'"):
        compressor("l0")


def test_a_mix_has_none() -> None:
    with pytest.raises(ConfigError, match=r"a mix has no compressor of its own, its parts have; got 'l2\+qat'"):
        compressor("l2+qat")


def test_only_the_file_that_is_needed_is_imported() -> None:
    code = (
        "import sys\n"
        "from autocompress.compression.base import compressor\n"
        "compressor('level')\n"
        "assert 'torch_pruning' not in sys.modules\n"
        "assert 'torchao' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


BATCHES = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 + 1 for seed in range(3)]


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, torch.zeros(4)), lambda x: [x, torch.zeros(4)]])
def test_statistics_become_the_average_over_the_batches(wrap: object) -> None:
    model = build("plain")
    model.bn1.running_mean.fill_(100)
    recalibrate(model, map(wrap, BATCHES))
    with torch.no_grad():
        inputs = [model.conv1(batch) for batch in BATCHES]
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(model.bn1.running_mean, means)
    torch.testing.assert_close(model.bn1.running_var, variances)
    assert model.bn1.num_batches_tracked == 3


def test_everything_else_is_left_as_it_was() -> None:
    model = build("plain").train()
    model.bn2.eval()
    parameters = {name: value.detach().clone() for name, value in model.named_parameters()}
    recalibrate(model, BATCHES)
    assert model.training
    assert model.dropout.training
    assert not model.bn2.training
    assert model.bn1.momentum == 0.1
    assert all(torch.equal(value, parameters[name]) for name, value in model.named_parameters())
    assert all(value.grad is None for value in model.parameters())


def test_without_batches_the_statistics_stay() -> None:
    model = build("plain")
    model.bn1.running_mean.fill_(7)
    recalibrate(model, [])
    assert bool((model.bn1.running_mean == 7).all())


def test_without_batchnorm_no_batch_is_drawn() -> None:
    batches = iter(BATCHES)
    recalibrate(build("no_norm"), batches)
    assert len(list(batches)) == 3


def test_modes_come_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train()
    with pytest.raises(RuntimeError):
        recalibrate(model, [torch.zeros(2, 9)])
    assert model[1].training
    assert model[1].momentum == 0.1
