"""Where in a model its size lies: each layer's parameters, multiply-accumulates and time."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.compress.latency import RUNS, WARM_UP
from autocompress.compress.measure import countable_attention
from autocompress.compress.quantizing.int8 import Int8Model
from autocompress.compress.state import device_of, evaluating, moved
from autocompress.records import LayerSize


def layer_sizes(model: nn.Module, example_inputs: tuple[Any, ...]) -> list[LayerSize]:
    """Size of each layer that has parameters of its own, in the model's order.

    A layer's multiply-accumulates are those of one forward pass of the example inputs on dense kernels; its time is the
    median of several passes, that of layers within it included. An int8 graph has no layers: the list is empty.
    """
    if isinstance(model, Int8Model):
        return []
    inputs = moved(example_inputs, device_of(model))
    layers = {name: layer for name, layer in model.named_modules() if name and list(layer.parameters(recurse=False))}
    with evaluating(model), torch.no_grad():
        macs, seconds = _macs(model, inputs), _seconds(model, layers, inputs)
    seen: set[int] = set()
    return [
        LayerSize(name, type(layer).__name__, _nonzero(layer, seen), macs.get(name, 0), seconds.get(name))
        for name, layer in layers.items()
    ]


def _nonzero(layer: nn.Module, seen: set[int]) -> int:
    new = [parameter for parameter in layer.parameters(recurse=False) if id(parameter) not in seen]
    seen.update(id(parameter) for parameter in new)  # what layers share is the first one's
    return sum(int(torch.count_nonzero(parameter)) for parameter in new)


def _macs(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, int]:
    counter = FlopCounterMode(display=False)
    with countable_attention(), counter:
        model(*inputs)
    counts = {place.partition(".")[2]: operations for place, operations in counter.get_flop_counts().items()}
    return {place: sum(operations.values()) // 2 for place, operations in counts.items()}


def _seconds(model: nn.Module, layers: dict[str, nn.Module], inputs: tuple[Any, ...]) -> dict[str, float]:
    times: dict[str, list[float]] = {}
    with _timed(layers, times, torch.cuda.synchronize if device_of(model).type == "cuda" else lambda: None):
        for run in range(WARM_UP + RUNS):
            if run == WARM_UP:
                times.clear()
            model(*inputs)
    return {name: statistics.median(found) for name, found in times.items()}


@contextlib.contextmanager
def _timed(layers: dict[str, nn.Module], times: dict[str, list[float]], wait: Callable[[], None]) -> Iterator[None]:
    started: dict[str, float] = {}

    def begin(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait()
            started[name] = time.perf_counter()

        return hook

    def end(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait()
            times.setdefault(name, []).append(time.perf_counter() - started[name])

        return hook

    with contextlib.ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(begin(name)).remove)
            hooks.callback(layer.register_forward_hook(end(name)).remove)
        yield
