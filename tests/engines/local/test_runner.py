"""Models in wrappers, and processes that train together; more than one of these are in `tests/e2e`."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from autocompress.engines.local.runner import rank, rewrapped, shared, together, unwrapped


@pytest.fixture
def group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_alone():
    model = nn.Linear(2, 2)
    assert unwrapped(model) is rewrapped(model) is model
    assert (together(), rank(), shared("value")) == (False, 0, "value")
    assert unwrapped(DataParallel(model)) is model


@pytest.mark.usefixtures("group")
def test_a_wrapper_is_made_anew_with_its_settings():
    model = DistributedDataParallel(nn.Linear(2, 2), find_unused_parameters=True, gradient_as_bucket_view=True)
    model.module.weight = nn.Parameter(torch.ones(3, 2))
    model.module.bias = nn.Parameter(torch.ones(3))
    again = rewrapped(model)
    assert again is not model
    assert unwrapped(again) is model.module
    assert (again.find_unused_parameters, again.gradient_as_bucket_view) == (True, True)
    again(torch.ones(4, 2)).sum().backward()
    assert model.module.weight.grad.shape == (3, 2)
    assert (together(), rank(), shared([1, "a"])) == (True, 0, [1, "a"])
