"""Latency is measured in turns, warmed up, and as medians."""

import time

import torch
from torch import nn

from autocompress.compress.latency import measure_latency


class Sleeps(nn.Module):
    """Takes as long as it is told, the first passes longer."""

    def __init__(self, *seconds):
        super().__init__()
        self.seconds, self.modes = list(seconds), []

    def forward(self, x):
        self.modes.append((self.training, torch.is_grad_enabled()))
        time.sleep(self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0])
        return x


def test_medians_without_the_warm_up():
    slow, fast = Sleeps(0.2, 0.2, 0.03), Sleeps(0.2, 0.2, 0.2, 0.003)
    found = measure_latency(fast, slow, (torch.zeros(1),), warm_up=2, runs=5)
    assert 0.003 <= found.seconds < 0.2, found
    assert 0.03 <= found.original_seconds < 0.2, found
    assert len(slow.modes) == len(fast.modes) == 7


def test_modes_and_gradients():
    model = Sleeps(0.0)
    model.train()
    measure_latency(model, model, (torch.zeros(1),), warm_up=0, runs=1)
    assert set(model.modes) == {(False, False)}
    assert model.training
