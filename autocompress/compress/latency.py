"""How long a forward pass takes, in turns with another model, so that what else the machine does slows both."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autocompress.compress.state import device_of, evaluating, moved

WARM_UP, RUNS = 3, 15


@dataclass(frozen=True)
class Latency:
    """Median times of one forward pass.

    Attributes:
        seconds: of the model.
        original_seconds: of the model it is compared with.
    """

    seconds: float
    original_seconds: float


def measure_latency(
    model: nn.Module, original: nn.Module, example_inputs: tuple[Any, ...], *, warm_up: int = WARM_UP, runs: int = RUNS
) -> Latency:
    """Time both models in turns, in eval mode and without gradients, on the device each lies on.

    Args:
        model: the compressed model.
        original: the uncompressed one.
        example_inputs: positional arguments of one forward pass.
        warm_up: passes of each that are not counted.
        runs: passes of each that are; their medians are taken.
    """
    times: tuple[list[float], list[float]] = ([], [])
    models = (model, original)
    inputs = [moved(example_inputs, device_of(each)) for each in models]
    with evaluating(model), evaluating(original), torch.no_grad():
        for run in range(warm_up + runs):
            for each, arguments, found in zip(models, inputs, times, strict=True):
                seconds = _seconds(each, arguments)
                if run >= warm_up:
                    found.append(seconds)
    return Latency(statistics.median(times[0]), statistics.median(times[1]))


def _seconds(model: nn.Module, arguments: tuple[Any, ...]) -> float:
    started = time.perf_counter()
    model(*arguments)
    if device_of(model).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
